"""A histogram without a lock, for what happens at every token."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Tally:
    """Counts values in buckets. One thread adds, any may read: a reader is at most one value behind.

    The client library's own histogram takes two locks for each value, which a token must not cost.

    Args:
        bounds: upper bounds of the buckets, ascending; above the last there is one more.
    """

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """Count a value that was seen `times` times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, values up to it) for each bucket, the last with the bound "+Inf"."""
        found, total = [], 0
        for bound, count in zip((*self.bounds, None), tuple(self._counts), strict=True):
            total += count
            found.append(("+Inf" if bound is None else repr(float(bound)), float(total)))
        return found
