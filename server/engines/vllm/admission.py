"""Which of the requests that wait for vLLM may be computed next: pure, without vLLM.

By the predicted peak of the cache, and those whose adapters are in use first. vLLM itself admits
whoever fits now, and where the cache then runs out it throws requests out and computes them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crayon.server.forecast.occupancy import Holder, Occupancy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from crayon.server.forecast.lengths import Lengths

PATIENCE = 32
"""Requests that may overtake one whose adapter is not in use; after that it keeps its place."""


class WaitingRequest(NamedTuple):
    """A request that waits: its id, what it would hold (see `Holder`), and whether it is of an answer at all."""

    id: str
    holder: Holder

    @property
    def adapter(self) -> str:
        """Name of its adapter, "" for the base."""
        return self.holder.group


def in_turn(
    waiting: Sequence[WaitingRequest], live: Collection[str], overtaken: Mapping[str, int], *, slots: int
) -> list[WaitingRequest]:
    """Return the waiting requests in the order in which they may enter.

    As they came, but while all adapters' slots are taken, those whose adapter is in use (or that have none) come
    before those who would have to wait for a slot, unless `PATIENCE` others have overtaken such a one already.

    Args:
        waiting: in order of arrival.
        live: adapters of the requests that are being computed.
        overtaken: how many have overtaken each so far.
        slots: adapters that may be computed with side by side.
    """
    used = {name for name in live if name}
    for one in waiting:
        if len(used) >= slots:
            break
        if one.adapter:
            used.add(one.adapter)
    ready = [one for one in waiting if not one.adapter or one.adapter in used]
    blocked = [one for one in waiting if one.adapter and one.adapter not in used]
    patient = [one for one in blocked if overtaken.get(one.id, 0) < PATIENCE]
    if len(patient) == len(blocked):
        return [*ready, *blocked]
    # Somebody's patience is over: nobody may enter before them, so that running adapters end and a slot gets free.
    first = next(one for one in waiting if one.adapter and one.adapter not in used and one not in patient)
    return list(waiting[: waiting.index(first) + 1])


def admitted(
    running: Sequence[Holder],
    line: Sequence[WaitingRequest],
    *,
    capacity: int,
    lengths: Lengths,
    places: int,
    block: int = 1,
) -> list[str]:
    """Return the ids of the requests that may enter now, in order. The first that does not fit holds those behind it.

    Args:
        running: who holds a part of the cache.
        line: as `in_turn` orders them.
        capacity: tokens that the cache can hold.
        lengths: how long answers get.
        places: how many more may be computed at a time.
        block: tokens of the pages that the cache is given out in; each request is taken to waste one.
    """
    forecast = Occupancy(capacity, lengths, [_paged(holder, block) for holder in running])
    found: list[str] = []
    for one in line[: max(places, 0)]:
        holder = _paged(one.holder, block)
        # A request alone is let in whatever is predicted: vLLM refused what cannot fit at all.
        if (running or found) and not forecast.fits(holder):
            break
        forecast.add(holder)
        found.append(one.id)
    return found


def _paged(holder: Holder, block: int) -> Holder:
    return holder._replace(held=holder.held + block - 1)
