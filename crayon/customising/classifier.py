"""A closed-form classifier on embeddings: which of a closed set of answers a question is like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Of kernel ridge regression on unit rows. From 0.03 to 1 the accuracy on train tasks differs by less than a point.
RIDGE = 0.2


class Classifier:
    """Ridge regression from unit rows to one-hot labels, with an intercept that is not penalised.

    With few rows and many dimensions it is solved in its dual form: f(x) = k(x)^T A + b, where [A; b] solves
    [[K + ridge I, 1], [1^T, 0]] [A; b] = [Y; 0] and K holds the rows' dot products. What a row's value would be without
    that row follows in closed form, y_i - A_i / C_ii with C the inverse of that matrix (Cawley and Talbot, 2004).

    Args:
        rows: (n, D) unit rows, n at least 1.
        labels: (n,) numbers of their answers.
        classes: how many answers there are; one that no row has is as likely as the others are on average.
        ridge: the penalty.

    Raises:
        InvalidRequestError: sizes that do not match, or a label out of range.
    """

    def __init__(
        self, rows: NDArray[np.floating], labels: Sequence[int], classes: int, *, ridge: float = RIDGE
    ) -> None:
        numbers = np.asarray(labels, np.intp)
        if rows.ndim != 2 or not len(rows) or numbers.shape != (len(rows),):
            raise InvalidRequestError("samples", f"have {len(numbers)} answers for embeddings of shape {rows.shape}")
        if numbers.min() < 0 or numbers.max() >= classes:
            raise InvalidRequestError("samples", f"have an answer that is none of the {classes}")
        self._rows = np.asarray(rows, np.float64)
        n = len(rows)
        targets = np.zeros((n + 1, classes))
        targets[np.arange(n), numbers] = 1.0
        system = np.ones((n + 1, n + 1))
        system[:n, :n] = self._rows @ self._rows.T + ridge * np.eye(n)
        system[n, n] = 0.0
        inverse = np.linalg.inv(system)
        found = inverse @ targets
        self._weights, self._intercept = found[:n], found[n]
        self._targets = targets[:n]
        self._counts = np.bincount(numbers, minlength=classes)
        self._own = np.diag(inverse)[:n]

    def values(self, queries: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how much each query, (m, D) unit rows, is like each answer's samples: (m, classes), 0 to 1 or so."""
        similar = np.asarray(queries, np.float64) @ self._rows.T
        return _with_unseen(similar @ self._weights + self._intercept, self._counts > 0)

    def left_out(self) -> NDArray[np.float64]:
        """Return the values of each row as the classifier of all other rows gives them, shape (n, classes)."""
        if len(self._rows) == 1:
            return np.zeros_like(self._targets)
        found = self._targets - self._weights / np.maximum(self._own, 1e-12)[:, None]
        return _with_unseen(found, self._counts - self._targets > 0.5)


def _with_unseen(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return values, (m, classes), with each row's mean where a class has no samples, which says nothing against it."""
    seen = np.broadcast_to(seen, values.shape)
    mean = np.where(seen, values, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    return np.asarray(np.where(seen, values, mean[:, None]), np.float64)
