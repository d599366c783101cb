"""How full the cache gets, by how much each answer is predicted to get still."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crayon.server.forecast.kv_peak import KvForecast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.server.forecast.lengths import LengthModel

LEAST_GROWTH = 16
"""Every answer is taken to get at least as many tokens more as this, or all that it may: who is let in, or back in,
is not in the way after a few steps already, however wrong the predictions are."""


class Holder(NamedTuple):
    """A generating request: its cells once its prompt is computed, tokens of its answer, those to come at most."""

    held: int
    generated: int
    most: int
    group: str = ""


class Occupancy:
    """Says of one candidate after the other whether the cache has room for it.

    Args:
        capacity: cells that there are.
        lengths: how much each answer gets still.
        holders: those who hold some of them.
    """

    def __init__(self, capacity: int, lengths: LengthModel, holders: Sequence[Holder]) -> None:
        self.capacity = capacity
        self._lengths = lengths
        held, left = [holder.held for holder in holders], [self._left(holder) for holder in holders]
        self._forecast = KvForecast(capacity, held, left)

    @property
    def peak(self) -> int:
        """Most tokens expected in the cache at any step from now on."""
        return self._forecast.peak

    def fits(self, holder: Holder) -> bool:
        """Whether the peak stays within the capacity with one more request."""
        return self._forecast.fits(holder.held, self._left(holder))

    def add(self, holder: Holder) -> None:
        """Count one more request, whether it fits or not."""
        self._forecast.add(holder.held, self._left(holder))

    def _left(self, holder: Holder) -> int:
        most = holder.most
        return min(most, max(LEAST_GROWTH, self._lengths.remaining(holder.generated, most, group=holder.group)))
