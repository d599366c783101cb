"""Which requests may begin, or go on: whether the cache has room until their end, and whose the sequences are.

What is scored or encoded is long work of short steps: that of one client holds at most `limits.slots` sequences, all of
it at most `limits.long_slots`. Whoever would need more waits, and is overtaken by others. So there is always a sequence
that an answer ends in and that somebody else can have: if need be it is taken from whoever holds most (`place`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.forecast.occupancy import Holder, Occupancy
from crayon.server.scheduler.prefix_cache import best_source
from crayon.server.steps.request import Kind, Request
from crayon.server.steps.step_plan import Admission, IdlePrefix, Restore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crayon.server.forecast.lengths import LengthModel
    from crayon.server.scheduler.draft import Draft
    from crayon.server.scheduler.prefix_cache import PrefixIndex
    from crayon.server.scheduler.state import State


class CacheForecast:
    """Says of one candidate after the other whether it fits beside those that run.

    With predicted lengths: whether the predicted peak does. Without: whether everybody's worst case does, so that
    nobody ever runs out. What others than generating requests take is known and counted in full.
    """

    def __init__(self, draft: Draft, lengths: LengthModel | None) -> None:
        self._draft = draft
        self._lengths = lengths
        self._encode: int | None = None
        self._forecast: Occupancy | None = None

    def fits(self, request: Request, need: int, source: IdlePrefix | None = None) -> bool:
        """Whether a request fits that takes `need` cells at most, a beginning that it has from `source` included."""
        limits = self._draft.limits
        if request.kind is Kind.ENCODE and limits.encode_capacity is not None:
            return need <= self._encode_room(limits.encode_capacity)
        need -= self._saved(source)
        if self._worst_case() + need <= limits.kv_capacity:
            return True  # so any prediction does, and none need be made
        if self._lengths is None:
            return False
        forecast = self._predicted(self._lengths)
        if request.kind is not Kind.GENERATE:
            return forecast.peak + need <= forecast.capacity
        return forecast.fits(self._alone(request, source))

    def took(self, request: Request, need: int, source: IdlePrefix | None = None) -> None:
        """Count what was let in; the draft counts it already."""
        if request.kind is Kind.ENCODE and self._encode is not None:
            self._encode -= need
            return
        if source is not None or self._draft.idle:
            self._forecast = None  # what was idle may be held now, so all is counted again
            return
        if self._forecast is not None and request.kind is Kind.GENERATE:
            self._forecast.add(self._alone(request, None))
        else:
            self._forecast = None

    def forget(self) -> None:
        """Count all again: somebody was spilled."""
        self._forecast = self._encode = None

    def _saved(self, source: IdlePrefix | None) -> int:
        # A beginning that is held by a running request is counted already, an idle prefix is not.
        return source.tokens if source is not None and source.seq not in self._draft.idle else 0

    def _alone(self, request: Request, source: IdlePrefix | None) -> Holder:
        """Return what a request takes."""
        return _holder(request, max(request.prompt, request.computed) - self._saved(source))

    def _encode_room(self, capacity: int) -> int:
        if self._encode is None:
            encoding = [request for request in self._draft.running if request.kind is Kind.ENCODE]
            self._encode = capacity - sum(request.reserved for request in encoding)
        return self._encode

    def _worst_case(self) -> int:
        """Return the most cells that the running requests will ever hold."""
        draft = self._draft
        return draft.used - draft.evictable + draft.fixed + draft.promised

    def _predicted(self, lengths: LengthModel) -> Occupancy:
        if self._forecast is None:
            self._forecast = self._predict(lengths)
        return self._forecast

    def _predict(self, lengths: LengthModel) -> Occupancy:
        draft = self._draft
        holders, others = [], draft.used - draft.evictable + draft.fixed
        for request in draft.generating:
            own = 0 if request.id in draft.shares else request.computed - request.shared
            others -= own
            holders.append(_holder(request, own + max(0, request.prompt - draft.start(request))))
        return Occupancy(draft.limits.kv_capacity - others, lengths, holders)


def _holder(request: Request, held: int) -> Holder:
    return Holder(held, request.generated, request.max_tokens - request.generated, request.blend)


def restore(draft: Draft, forecast: CacheForecast, state: State, gone: set[str]) -> list[Restore]:
    """Let those go on that were spilled, in order of admission, as far as they fit."""
    restores: list[Restore] = []
    for request in state.spilled.values():
        if request.id in gone:
            continue
        if not forecast.fits(request, request.least):
            break
        seq = draft.take()
        if seq is None:
            break
        restores.append(Restore(request.id, seq))
        draft.settle(request.computed)
        draft.load(seq, request.computed)
        draft.run(request, [seq], 0)
        forecast.took(request, request.least)
    return restores


class _LongSlots:
    """The sequences that what is scored or encoded may still take."""

    def __init__(self, draft: Draft) -> None:
        self._most = draft.limits.slots
        self._left = draft.limits.long_slots
        self._held: dict[str, int] = {}
        for request in draft.running:
            self.took(request, len(draft.slots.get(request.id, request.slots)))

    def of(self, request: Request) -> int:
        """Return how many sequences a request may take; 0: it waits for others of its kind."""
        if request.kind is Kind.GENERATE:
            return 1
        return max(0, min(max(1, len(request.branches)), self._most - self._held.get(request.client, 0), self._left))

    def took(self, request: Request, seqs: int) -> None:
        """Count a request that runs."""
        if request.kind is not Kind.GENERATE:
            self._left -= seqs
            self._held[request.client] = self._held.get(request.client, 0) + seqs


def admit(
    draft: Draft, forecast: CacheForecast, waiting: Iterable[Request], index: PrefixIndex | None
) -> list[Admission]:
    """Let requests in, in the order given. The first that does not fit the cache holds up the others.

    Those that wait for sequences of their kind (see above) are passed over.
    """
    admissions: list[Admission] = []
    if not draft.free and not draft.idle:
        return admissions  # the usual step; to find out whose turn it is would be wasted
    slots = _LongSlots(draft)
    for request in waiting:
        if not draft.free and not draft.idle:
            break
        wide = slots.of(request)
        if not wide:
            continue
        source = best_source(draft, index, request) if index is not None else None
        # All its sequences now or fewer, so that nobody waits for a second one while holding a first.
        for width in range(max(1, min(wide, len(draft.free))), 0, -1):
            need = request.kv_need(width)
            if forecast.fits(request, need, source):
                break
        else:
            break
        seqs = _sequences(draft, request, width, source)
        if not seqs:
            break
        draft.run(request, seqs, need)
        slots.took(request, len(seqs))
        admissions.append(Admission(request.id, tuple(seqs), need))
        forecast.took(request, need, source)
    return admissions


def _sequences(draft: Draft, request: Request, width: int, source: IdlePrefix | None) -> list[int]:
    """Take `width` sequences, the first of which holds what the request has from `source`."""
    first = draft.take(None if source is None else source.seq)
    if first is None and source is not None:
        # The source itself is the only one left: the request goes on in it.
        draft.share(request, source.seq, source)
        draft.forget(source.seq)
        return [source.seq]
    if first is None:
        return []
    if source is not None:
        draft.share(request, first, source)
    return [first, *(draft.free.pop(0) for _ in range(width - 1))]
