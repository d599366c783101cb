"""Book what a step did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.errors import EngineError
from crayon.server.steps.request import Kind, Request, Slot
from crayon.server.steps.step_plan import Changes, IdlePrefix, KvOp, Row, Share, StepOutcome, StepPlan

if TYPE_CHECKING:
    from crayon.server.scheduler.state import State


def commit(state: State, plan: StepPlan, outcome: StepOutcome) -> Changes:
    """Bring `state` to after the step that `plan` described and that went as `outcome` says.

    Raises:
        EngineError: the plan is not for the state's current step.
    """
    if plan.step != state.step:
        raise EngineError(f"the plan is for step {plan.step}, the state is at step {state.step}")
    _arrange(state, plan)
    touched: dict[str, Request] = {}
    running, cells = state.running, state.cells
    written: dict[str, int] = {}
    read: dict[str, int] = {}
    for nano in plan.nano[: outcome.ran]:
        tokens = 0
        for row in nano.rows:
            tokens += row.tokens
            request = touched[row.request] = running[row.request]
            if request.kind is not Kind.ENCODE:
                cells.grow(row.seq, row.tokens)
            if request.reading:
                request.read += row.tokens
                read[request.client] = read.get(request.client, 0) + row.tokens
            if row.branch is not None:
                _advance_branch(request, row)
                continue
            request.computed += row.tokens
            if row.logits and request.kind is Kind.GENERATE:
                count = 1 + outcome.forced.get(row.request, 0)
                request.generated += count
                written[request.client] = written.get(request.client, 0) + count
        group = touched[nano.rows[0].request].group
        state.served[group] = state.step
        state.spent[group] = state.spent.get(group, 0) + tokens
    for client, count in written.items():
        state.waiting.charge(client, count)
    if read:
        state.readers.charge(read)
    done = (key for key, item in touched.items() if item.complete or key in outcome.ended)
    # What a failed request would leave to others is not in the cache.
    finished = tuple(key for key in done if key not in outcome.failed)
    for request_id in finished:
        _leave(state, running[request_id])
    if finished:
        state.remove(finished)
    state.credit = plan.credit
    state.step += 1
    return Changes(finished, plan.drops)


def _arrange(state: State, plan: StepPlan) -> None:
    """Book everything but what was computed."""
    state.released.clear()  # the plan's KvOps did it, and emptied those of the dropped
    for spill in plan.spills:
        state.spill(spill.request)
    for op in plan.kv:
        state.cells.apply(op)
    for prefix in plan.evicted:
        state.idle.pop(prefix.seq)
    if plan.drops:
        state.remove([drop.request for drop in plan.drops])
    for restore in plan.restores:
        state.restore(restore.request, restore.seq)
    for admission in plan.admissions:
        request = state.get(admission.request)
        request.slots = [Slot(seq) for seq in admission.seqs]
        request.reserved = admission.reserved
    if plan.admissions:
        state.start([admission.request for admission in plan.admissions])
    for share in plan.shares:
        _begin(state, share)
    for group in plan.turns:
        state.spent[group] = 0


def _begin(state: State, share: Share) -> None:
    """Book what a request need not compute."""
    request = state.get(share.request)
    state.shared_tokens += share.tokens - request.shared
    if request.kind is Kind.SCORE:
        request.reserved -= share.tokens - request.shared
    request.computed = request.shared = share.tokens
    for seq, prefix in state.idle.items():
        if prefix.id == share.source:
            state.idle[seq] = state.idle.pop(seq)  # the one used last is the last to go
            break


def _advance_branch(request: Request, row: Row) -> None:
    slot = next(slot for slot in request.slots if slot.seq == row.seq)
    if slot.branch is None:
        slot.branch, slot.computed = row.branch, 0
        request.branches_started += 1
    slot.computed += row.tokens
    if row.branch is not None and slot.computed == request.branches[row.branch]:
        slot.branch, slot.computed = None, 0
        request.branches_done += 1


def _leave(state: State, request: Request) -> None:
    """Leave a finished request's prompt, and answer, as an idle prefix, and the rest to be emptied."""
    first, *rest = [slot.seq for slot in request.slots]
    if request.kind is Kind.ENCODE:
        state.released.append(KvOp(first, first, 0))
    else:
        state.idle[first] = IdlePrefix(request.id, first, request.computed, request.group)
        if request.branches:
            state.released.append(KvOp(first, first, request.computed))
    state.released.extend(KvOp(seq, seq, 0) for seq in rest)
