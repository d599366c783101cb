"""How full the cache gets, by the rule that lengths are predicted with: one end for each request, or shares of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from crayon.server.prediction import Rule
from crayon.server.scheduler.kv import KvForecast
from crayon.server.scheduler.kv_profile import KvProfile
from crayon.server.scheduler.lengths import Lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.server.scheduler.lengths import LengthModel, ShareModel

LEAST_GROWTH = 16
"""Every answer is taken to get at least as many tokens more as this, or all that it may: who is let in, or back in,
is not in the way after a few steps already, however wrong the predictions are."""


class Holder(NamedTuple):
    """A generating request: its cells once its prompt is computed, tokens of its answer, those to come at most."""

    held: int
    generated: int
    most: int
    group: str = ""


class Occupancy(Protocol):
    """Says of one candidate after the other whether the cache has room for it."""

    capacity: int

    @property
    def peak(self) -> int:
        """Most tokens expected in the cache at any step from now on."""
        ...

    def fits(self, holder: Holder) -> bool:
        """Whether the peak stays within the capacity with one more request."""
        ...

    def add(self, holder: Holder) -> None:
        """Count one more request, whether it fits or not."""
        ...


def occupancy(capacity: int, lengths: LengthModel, holders: Sequence[Holder]) -> Occupancy:
    """Return what those who hold a part of `capacity` cells are expected to take."""
    if isinstance(lengths, Lengths) and lengths.rule is Rule.SHARES and capacity >= 1:
        return _ByShares(capacity, lengths, holders)
    return _ByEnds(capacity, lengths, holders)


class _ByEnds:
    def __init__(self, capacity: int, lengths: LengthModel, holders: Sequence[Holder]) -> None:
        self.capacity = capacity
        self._lengths = lengths
        held, left = [holder.held for holder in holders], [self._left(holder) for holder in holders]
        self._forecast = KvForecast(capacity, held, left)

    @property
    def peak(self) -> int:
        return self._forecast.peak

    def fits(self, holder: Holder) -> bool:
        return self._forecast.fits(holder.held, self._left(holder))

    def add(self, holder: Holder) -> None:
        self._forecast.add(holder.held, self._left(holder))

    def _left(self, holder: Holder) -> int:
        most = holder.most
        return min(most, max(LEAST_GROWTH, self._lengths.remaining(holder.generated, most, group=holder.group)))


class _ByShares:
    def __init__(self, capacity: int, lengths: ShareModel, holders: Sequence[Holder]) -> None:
        self.capacity = capacity
        self._profile = KvProfile(capacity, _Growing(lengths))
        for group in dict.fromkeys(holder.group for holder in holders):
            held, generated, most = zip(*(holder[:3] for holder in holders if holder.group == group), strict=True)
            self._profile.add(held, generated, most, group=group)

    @property
    def peak(self) -> int:
        return self._profile.peak

    def fits(self, holder: Holder) -> bool:
        return self._profile.fits(*holder[:3], group=holder.group)

    def add(self, holder: Holder) -> None:
        self._profile.add(*holder[:3], group=holder.group)


class _Growing:
    """Shares of answers, none of which ends before it has grown by `LEAST_GROWTH`."""

    def __init__(self, lengths: ShareModel) -> None:
        self._lengths = lengths

    def shares(self, generated: NDArray[np.int64], steps: NDArray[np.int64], *, group: str = "") -> NDArray[np.float64]:
        found = self._lengths.shares(generated, steps, group=group)
        return np.where(steps < LEAST_GROWTH, 1.0, found)
