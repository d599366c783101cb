"""Book what a step did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.errors import EngineError
from crayon.server.scheduler.request import Kind, Lane, Request
from crayon.server.scheduler.step import Changes, Outcome, Row, StepPlan

if TYPE_CHECKING:
    from crayon.server.scheduler.state import State


def commit(state: State, plan: StepPlan, outcome: Outcome) -> Changes:
    """Bring `state` to after the step that `plan` described and that went as `outcome` says.

    Raises:
        EngineError: the plan is not for the state's current step.
    """
    if plan.step != state.step:
        raise EngineError(f"the plan is for step {plan.step}, the state is at step {state.step}")
    state.released.clear()  # the plan's KvOps emptied them, and those of the dropped
    if plan.drops:
        state.remove([drop.request for drop in plan.drops])
    for admission in plan.admissions:
        request = state.get(admission.request)
        request.lanes = [Lane(seq) for seq in admission.seqs]
        request.reserved = admission.reserved
    if plan.admissions:
        state.start([admission.request for admission in plan.admissions])
    touched: dict[str, Request] = {}
    for nano in plan.nano[: outcome.ran]:
        for row in nano.rows:
            request = state.get(row.request)
            if _advance(request, row):
                state.waiting.charge(request.client, 1)
            touched[request.id] = request
            state.served[request.group] = state.step
    finished = tuple(key for key, item in touched.items() if item.complete or key in outcome.ended)
    for request_id in finished:
        state.released.extend(lane.seq for lane in state.get(request_id).lanes)
    if finished:
        state.remove(finished)
    state.step += 1
    return Changes(finished, plan.drops)


def _advance(request: Request, row: Row) -> bool:
    """Book a row; return whether a token was written."""
    if row.branch is None:
        request.computed += row.tokens
        wrote = request.kind is Kind.GENERATE and row.logits > 0
        request.generated += wrote
        return wrote
    lane = next(lane for lane in request.lanes if lane.seq == row.seq)
    if lane.branch is None:
        lane.branch, lane.computed = row.branch, 0
        request.branches_started += 1
    lane.computed += row.tokens
    if lane.computed == request.branches[row.branch]:
        lane.branch, lane.computed = None, 0
        request.branches_done += 1
    return False
