"""How full the cache probably gets, step by step, from the shares of answers that are still being written.

One number a request (`kv.KvForecast`) says when each answer ends. Put in its mean, and all that run are expected to
grow for as long together, although some end soon and make room: the peak comes out too high. Here a request that
holds h tokens takes h + t of the cache at step t with the share of answers that get that far, and nothing else.
Answers do not know of each other, so the means add up and the variances too; the cache is expected to take their
sum plus `caution` standard deviations, and never more than if all got all their tokens.

Steps are looked at in cells that get longer with their distance; within one, a request counts as if it wrote from
the cell's first step and held what it does after the last. That errs on the full side only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from crayon.server.scheduler.lengths import ShareModel

_CELLS = 64
CAUTION = 2.0
"""Standard deviations: at 2 few steps in a hundred run out of cache, at 3 hardly any.

Source: docs/explanation/kv-prediction.md."""


@lru_cache(maxsize=8)
def _cells(capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the steps before each cell and its last; nobody who fits at all writes more than the cache holds."""
    last: NDArray[np.int64] = np.unique(np.rint(np.geomspace(1, capacity, _CELLS)).astype(np.int64))
    return np.concatenate(([0], last[:-1])), last


class KvProfile:
    """Says of one candidate after the other whether the cache probably has room for it.

    Args:
        capacity: tokens that the cache can hold.
        lengths: how many answers get how far.
        caution: standard deviations above the mean.

    Raises:
        ConfigError: the caution is negative, or there is no cache.
    """

    def __init__(self, capacity: int, lengths: ShareModel, *, caution: float = CAUTION) -> None:
        if capacity < 1:
            raise ConfigError("capacity", f"must be at least 1, not {capacity}")
        if not caution >= 0:
            raise ConfigError("caution", f"must be at least 0, not {caution}")
        self.capacity = capacity
        self.caution = caution
        self._lengths = lengths
        self._before, self._last = _cells(capacity)
        self._use: NDArray[np.float64] = np.zeros((3, len(self._last)))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def peak(self) -> int:
        """Most tokens that the cache is expected to take at any step from now on."""
        return self._peak(self._use)

    def peak_with(self, held: int, generated: int, most: int, *, group: str = "") -> int:
        """Return what the peak would be with one more request."""
        return self._peak(self._use + self._of([held], [generated], [most], group))

    def fits(self, held: int, generated: int, most: int, *, group: str = "") -> bool:
        """Whether the peak stays within the capacity with one more request; a request alone must only fit at all.

        Args:
            held: its tokens in the cache; a prompt in full.
            generated: tokens of its answer, 0 for a new one.
            most: tokens that it may still get.
            group: whose answers it is like.
        """
        if not len(self):
            return held + most <= self.capacity
        return self.peak_with(held, generated, most, group=group) <= self.capacity

    def add(self, held: ArrayLike, generated: ArrayLike, most: ArrayLike, *, group: str = "") -> None:
        """Count more requests of one group, whether they fit or not: three numbers, or three arrays as `fits` takes."""
        held = np.atleast_1d(held)
        self._use += self._of(held, np.atleast_1d(generated), np.atleast_1d(most), group)
        self._count += len(held)

    def _peak(self, use: NDArray[np.float64]) -> int:
        mean, variance, worst = use
        expected = np.minimum(mean + self.caution * np.sqrt(variance), worst)
        return int(np.ceil(expected.max() - 1e-6))  # the last bits of a sum are no token

    def _of(self, held: ArrayLike, generated: ArrayLike, most: ArrayLike, group: str) -> NDArray[np.float64]:
        """Return mean, variance and worst case of what requests take together, by cell."""
        limit = np.asarray(most, dtype=np.int64)[:, None]
        size = np.asarray(held, dtype=np.int64)[:, None] + np.minimum(self._last, limit)
        size *= self._before < limit
        share = self._lengths.shares(np.asarray(generated, dtype=np.int64), self._before, group=group)
        mean = share * size
        return np.array([mean.sum(0), np.einsum("ij,ij->j", mean, size - mean), size.sum(0)])
