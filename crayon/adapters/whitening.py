"""A head that makes the spread within groups of texts even in all directions, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def whitening(groups: Sequence[NDArray[np.floating]], shrink: float) -> NDArray[np.float32]:
    """Return a symmetric head (D, D), the inverse root of the shrunk covariance within groups.

    Directions in which texts of one group differ say little of which group they are of, and come to count less.
    (Fisher's linear discriminant.)

    Args:
        groups: for each group (n, D) states, none empty; those of one text add nothing.
        shrink: of the mean eigenvalue, added to each.
    """
    within = np.concatenate([np.asarray(rows, np.float64) - np.mean(rows, axis=0, dtype=np.float64) for rows in groups])
    within /= np.sqrt(len(within))
    few, width = within.shape
    # Of fewer texts than dimensions, all but `few` directions have no spread: no need to decompose them.
    square = within @ within.T if few < width else within.T @ within
    values, vectors = np.linalg.eigh(square)
    mean = max(float(values.sum()) / width, 1e-12)
    kept = values > 1e-9 * max(float(values[-1]), 1e-12)
    values, vectors = values[kept], vectors[:, kept]
    if few < width:
        vectors = within.T @ vectors / np.sqrt(values)
    rest = 1.0 / np.sqrt(shrink)
    scale = 1.0 / np.sqrt(values / mean + shrink) - rest
    return np.asarray(rest * np.eye(width) + (vectors * scale) @ vectors.T, np.float32)
