"""The rules of one step.

1. Cancelled and expired requests are dropped; their sequences and cache are free at once.
2. Waiting requests are admitted in turn (see `fairness`) while a sequence is free and their worst case fits the
   cache (prompt + max_tokens), so that a running request never runs out. Nobody overtakes: the first that
   does not fit holds the queue.
3. Groups (one blend each; encoding is a group of its own) take turns, the one served longest ago first, at
   most `caps.max_blends` in a step. Encoding never shares a step.
4. Within the chosen groups every decoding request computes its one token; then prompts, in order of
   admission, fill the rest of the budget and are cut at any token. Only the last can be cut, and it comes
   first in its group's next step.

Bound: let W be the tokens of all requests that run when a request arrives or that are admitted before it, plus
its own; `fairness` bounds how many these are. Every `max_seqs` steps compute at least one of these tokens, so
the request is finished after at most `max_seqs * W` steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.scheduler.request import Kind, Lane, Request
from crayon.server.scheduler.step import Admission, Drop, DropReason, KvOp, NanoBatch, Resource, Row, StepPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crayon.server.scheduler.caps import Caps
    from crayon.server.scheduler.cost import CostModel
    from crayon.server.scheduler.state import State

_Group = tuple[str, bool]


def plan(state: State, caps: Caps, cost: CostModel) -> StepPlan:
    """Decide the next step. Reads `state`, changes nothing."""
    drops = _drops(state, caps)
    gone = {drop.request for drop in drops}
    running = [request for request in state.running.values() if request.id not in gone]
    freed = [*state.released]
    for drop in drops:
        if drop.request in state.running:
            freed.extend(lane.seq for lane in state.running[drop.request].lanes)
    admissions, admitted = _admit(state, caps, running, gone)
    running += admitted
    lanes = {request.id: request.lanes for request in running}
    lanes.update({item.request: [Lane(seq) for seq in item.seqs] for item in admissions})

    groups = _choose(running, state, caps.max_blends)
    budget = _budget(running, groups, caps, cost)
    filler = _Filler(groups, budget, caps.outputs, [KvOp(seq, seq, 0) for seq in freed])
    chosen = set(groups)
    mine = [request for request in running if request.group in chosen]
    for request in mine:
        if request.decoding:
            filler.decode(request)
    for request in mine:
        if not request.decoding:
            filler.prefill(request, lanes[request.id])
    nano = filler.nano()
    seconds = cost.seconds(budget - filler.budget, len({item.blend for item in nano})) if nano else 0.0
    return StepPlan(state.step, drops, tuple(admissions), tuple(filler.kv), nano, seconds)


def _drops(state: State, caps: Caps) -> tuple[Drop, ...]:
    drops = []
    for request in state:
        if request.cancelled:
            drops.append(Drop(request.id, DropReason.CANCELLED))
        elif request.deadline is not None and request.deadline <= state.now:
            drops.append(Drop(request.id, DropReason.EXPIRED))
        elif not request.lanes and not request.ever_fits(caps):
            # The engine refuses these at its door; one that slips through must not hold the queue for ever.
            drops.append(Drop(request.id, DropReason.NEVER_FITS))
    return tuple(drops)


def _admit(state: State, caps: Caps, running: list[Request], gone: set[str]) -> tuple[list[Admission], list[Request]]:
    if len(state.waiting) == 0:
        return [], []
    used = {lane.seq for request in running for lane in request.lanes}
    free = [seq for seq in range(caps.max_seqs) if seq not in used]
    room = {encode: caps.capacity(encode=encode) for encode in (False, True)}
    shared = caps.encode_capacity is None
    for request in running:
        _take(room, request, request.reserved, shared=shared)
    admissions: list[Admission] = []
    admitted: list[Request] = []
    for request in state.waiting.in_turn(gone):
        wide = 1 if request.kind is Kind.GENERATE else max(1, min(len(request.branches), caps.lanes))
        # All its sequences now or fewer, so that nobody waits for a second one while holding a first.
        width = next((n for n in range(min(wide, len(free)), 0, -1) if request.kv_need(n) <= room[request.group[1]]), 0)
        if width == 0:
            break
        need = request.kv_need(width)
        admissions.append(Admission(request.id, tuple(free[:width]), need))
        admitted.append(request)
        del free[:width]
        _take(room, request, need, shared=shared)
    return admissions, admitted


def _take(room: dict[bool, int], request: Request, tokens: int, *, shared: bool) -> None:
    for encode in room:
        if shared or request.group[1] is encode:
            room[encode] -= tokens


def _choose(running: Iterable[Request], state: State, most: int) -> list[_Group]:
    """Return the groups of this step, longest unserved first. A new group queues behind the old ones."""
    present = dict.fromkeys(request.group for request in running)
    order = sorted(present, key=lambda group: state.served.get(group, state.step - 1))
    if not order:
        return []
    encode = order[0][1]
    return order[:1] if encode else [group for group in order if not group[1]][:most]


def _budget(running: list[Request], groups: list[_Group], caps: Caps, cost: CostModel) -> int:
    """Return the most tokens of this step: what the engine takes, or less while someone watches an answer."""
    decoding = sum(request.decoding for request in running)
    if caps.step_seconds is None or decoding == 0:
        return caps.max_tokens
    within = cost.tokens_within(caps.step_seconds, len(groups))
    return min(caps.max_tokens, max(within, caps.min_tokens, decoding + 1))


class _Filler:
    """Collects rows until the budget is used up."""

    def __init__(self, groups: list[_Group], budget: int, outputs: int, kv: list[KvOp]) -> None:
        self.budget = budget
        self.outputs = outputs
        self.kv = kv
        self._cut = False
        self._decode: dict[_Group, list[Row]] = {group: [] for group in groups}
        self._prefill: dict[_Group, list[Row]] = {group: [] for group in groups}

    def decode(self, request: Request) -> None:
        """Add the request's last sampled token."""
        row = Row(request.id, request.lanes[0].seq, request.computed, 1, 1)
        self._decode[request.group].append(row)
        self.budget -= 1
        self.outputs -= 1

    def prefill(self, request: Request, lanes: list[Lane]) -> None:
        """Add as much of the request's prompt, or of its branches, as there is budget for."""
        if self._cut or self.budget < 1:
            return
        rows = self._prefill[request.group]
        left = request.prompt - request.computed
        if left > 0:
            count = min(left, self.budget)
            if count == left and self.outputs < 1:
                count -= 1  # its logits have no room in this step
            self._cut = count < left
            if count > 0:
                ends = int(count == left)
                rows.append(Row(request.id, lanes[0].seq, request.computed, count, ends))
                self.budget -= count
                self.outputs -= ends
            return
        self._branches(request, lanes, rows)

    def _branches(self, request: Request, lanes: list[Lane], rows: list[Row]) -> None:
        fresh = request.branches_started
        for lane in lanes:
            branch = fresh if lane.branch is None else lane.branch
            if branch >= len(request.branches):
                continue
            left = request.branches[branch] - lane.computed
            count, logits = min(left, self.budget), 0
            if request.kind is Kind.SCORE:
                logits = count = min(count, self.outputs)
            self._cut = count < left
            if count < 1:
                return
            if lane.branch is None:
                fresh += 1
                self.kv.append(KvOp(lane.seq, lanes[0].seq, request.prompt))
            rows.append(Row(request.id, lane.seq, request.prompt + lane.computed, count, logits, branch))
            self.budget -= count
            self.outputs -= logits
            if self._cut:
                return

    def nano(self) -> tuple[NanoBatch, ...]:
        """Return the nano-batches, group after group, decodes before prefills."""
        batches: list[NanoBatch] = []
        for group, decodes in self._decode.items():
            blend, encode = group
            prefill = Resource.ENCODE if encode else Resource.PREFILL
            for resource, rows in ((Resource.DECODE, decodes), (prefill, self._prefill[group])):
                if rows:
                    batches.append(NanoBatch(blend, resource, tuple(rows)))
        return tuple(batches)
