"""The space in which texts are compared: a model's mean states, centred and whitened."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.profiles import pool_vectors
from crayon.errors import AdapterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool

# Of the mean eigenvalue, added where a spread is evened out; from 0.05 to 1 classes are told apart equally well.
SHRINK = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Where texts are unit vectors.

    Args:
        layer: of the model whose states are read, counted from 0.
        centre: subtracted from a state, (D,).
        head: applied after it, (D, D); None leaves it as it is.
    """

    layer: int
    centre: NDArray[np.float32]
    head: NDArray[np.float32] | None = None
    id: str = field(init=False, default="")

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.centre.tobytes() + (b"" if self.head is None else self.head.tobytes()))
        object.__setattr__(self, "id", f"unit-mean-{self.layer}-{digest.hexdigest()[:12]}")

    def place(self, states: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return mean states, (n, D), as unit rows.

        Raises:
            InvalidRequestError: other dimensions, or a state that is not finite.
        """
        return pool_vectors(states, self.centre, self.head)


def space_of_pool(pool: Pool) -> Space:
    """Return the space of a pool's keys.

    Raises:
        AdapterError: it has no keys.
    """
    encoder = pool.manifest.encoder
    if encoder is None:
        raise AdapterError(f"pool {pool.id} has no keys, so texts cannot be compared by it")
    return Space(encoder.layer, pool.centre, pool.head)


def everyday_space(background: NDArray[np.float32], layer: int) -> Space:
    """Return a space for a model without a pool: centred and whitened by the states of everyday texts.

    The head is the inverse root of their covariance, with a fifth of its mean eigenvalue added: directions in which any
    two texts differ say little.

    Args:
        background: mean states of everyday texts, (n, D), n of 2 or more.
        layer: that they were read from.

    Raises:
        AdapterError: fewer than 2 texts.
    """
    if len(background) < 2:
        raise AdapterError("the engine has no background texts to compare the samples with; open it by reference")
    centre = background.mean(axis=0, dtype=np.float64)
    spread = background.astype(np.float64) - centre
    # By the texts' own Gram matrix, which is much smaller than (D, D): its eigenvalues are those of the covariance.
    _, singular, directions = np.linalg.svd(spread, full_matrices=False)
    values = singular**2 / len(spread)
    mean = max(float(values.sum()) / spread.shape[1], 1e-12)
    rest = 1.0 / np.sqrt(SHRINK)
    scale = 1.0 / np.sqrt(values / mean + SHRINK) - rest
    head = (directions.T * scale) @ directions + rest * np.eye(spread.shape[1])
    return Space(layer, np.asarray(centre, np.float32), np.asarray(head, np.float32))
