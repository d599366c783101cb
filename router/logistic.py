"""Logistic regression in a few Newton steps (iteratively reweighted least squares), with a normal prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS = 50


def fit_logistic(
    columns: NDArray[np.float64],
    target: NDArray[np.float64],
    penalty: NDArray[np.float64],
    centre: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the weights, shape (k,), that minimise cross-entropy + sum(penalty * (weights - centre) ** 2) / 2.

    Args:
        columns: shape (n, k); put a column of ones for a bias.
        target: shape (n,), from 0 to 1, not all 0 and not all 1 where a weight has no penalty.
        penalty: shape (k,), one over the variance of each weight's prior; 0 for none.
        centre: shape (k,), the mean of each weight's prior; 0 if not given.
    """
    middle = np.zeros(columns.shape[1]) if centre is None else centre

    def loss(at: NDArray[np.float64]) -> float:
        f = columns @ at
        return float(np.sum(np.logaddexp(0.0, f) - target * f) + penalty @ (at - middle) ** 2 / 2)

    weights = middle.copy()
    now = loss(weights)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(columns @ weights, -500, 500)))
        gradient = columns.T @ (p - target) + penalty * (weights - middle)
        spread = np.maximum(p * (1 - p), 1e-12)  # a curvature of 0 has no step
        curvature = (columns * spread[:, np.newaxis]).T @ columns + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > now:
            size /= 2
        weights = weights - size * step
        before, now = now, loss(weights)
        if before - now < 1e-12:
            break
    return weights
