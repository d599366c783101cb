"""The rules of one step.

1. Cancelled and expired requests are dropped; their sequences and cache are free at once.
2. Where the cache is fuller than was predicted, idle prefixes are dropped and the youngest answers are spilled,
   never aborted; they come back, and are not computed again, before anybody new is let in (see `spill`), but for
   clients that have no sequence at all: for them, whoever holds most gives one up (see `place`).
3. Waiting requests are admitted in turn (see `fairness`) while a sequence is free and they fit the cache: with their
   worst case (prompt + max_tokens), so that a running request never runs out, or, where the engine can spill, as
   predicted (see `admission`). Nobody overtakes: the first that does not fit the cache holds the queue.
4. A prompt starts with what another sequence of its blend holds of it (see `prefixes`).
5. Groups (one blend each; encoding is a group of its own) take turns (see `groups`), at most `limits.max_blends` in a
   step. Encoding never shares a step.
6. Within the chosen groups every decoding request computes its one token; then prompts fill the rest of the budget (see
   `budget`) and are cut at any token: those of the client first that was read least so far, each client's in order of
   admission (see `reading`). So a step has as many tokens as the budget while the chosen groups have that much to do.
   Rows of logits are for answers and ends of prompts first; continuations take what is left of them.

Bound, with the worst case reserved and one client: let W be the tokens of all requests that run when a request arrives
or that are admitted before it, plus its own; `fairness` bounds how many these are. Every `2 * max_seqs * max(1,
quantum)` steps compute at least one of these tokens, so the request is finished after at most that many times W steps.
Between clients `reading` says how much one may be read before another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.scheduler.adapter_turns import choose_blends
from crayon.server.scheduler.admission import CacheForecast, admit, restore
from crayon.server.scheduler.batch_builder import BatchBuilder
from crayon.server.scheduler.draft import Draft
from crayon.server.scheduler.place import make_place, who_has_none
from crayon.server.scheduler.preemption import make_room
from crayon.server.scheduler.token_budget import budget
from crayon.server.steps.step_plan import Admission, Drop, DropReason, Restore, StepPlan

if TYPE_CHECKING:
    from crayon.server.cost.model import CostModel
    from crayon.server.forecast.lengths import LengthModel
    from crayon.server.scheduler.prefix_cache import PrefixIndex
    from crayon.server.scheduler.state import State
    from crayon.server.steps.limits import StepLimits


def plan(
    state: State,
    limits: StepLimits,
    cost: CostModel,
    lengths: LengthModel | None = None,
    index: PrefixIndex | None = None,
) -> StepPlan:
    """Decide the next step. Reads `state`, changes nothing.

    Args:
        state: who waits and who runs.
        limits: limits of the step.
        cost: how long steps take.
        lengths: how much an answer still gets; None, or an engine that cannot spill: all that it may.
        index: which prompts begin alike; None: nothing is shared.
    """
    drops = _drops(state, limits)
    gone = {drop.request for drop in drops}
    draft = Draft(state, limits, gone)
    spills = make_room(draft)
    restores: list[Restore] = []
    admissions: list[Admission] = []
    if not spills and (state.spilled or len(state.waiting)):
        forecast = CacheForecast(draft, lengths if limits.spill else None)
        poor = who_has_none(draft, state, gone)
        if poor is not None:
            spills = make_place(draft, forecast, poor)
            admissions = admit(draft, forecast, [poor], index)
        if not admissions:
            restores = restore(draft, forecast, state, gone)
            if len(restores) == sum(1 for name in state.spilled if name not in gone):
                admissions = admit(draft, forecast, state.waiting.in_turn(gone), index)

    groups, turns = choose_blends(draft.running, state, limits)
    present = [request for request in draft.running if request.reading and request.group in groups]
    reading = state.readers.in_turn(present, state.step, limits.max_tokens)
    tokens, credit = budget(draft, state, groups, reading, cost)
    filler = BatchBuilder(draft, groups, tokens, reading, index)
    filler.fill()
    nano = filler.nano()
    return StepPlan(
        state.step,
        drops,
        tuple(admissions),
        tuple(draft.kv),
        nano,
        cost.seconds(filler.tokens, len({item.blend for item in nano})) if nano else 0.0,
        tuple(spills),
        tuple(restores),
        tuple(draft.shares.values()),
        tuple(draft.evicted),
        turns,
        credit,
    )


def _drops(state: State, limits: StepLimits) -> tuple[Drop, ...]:
    drops, now = [], state.now
    most = min(limits.capacity(encode=False), limits.capacity(encode=True))
    for request in state:
        if request.cancelled:
            drops.append(Drop(request.id, DropReason.CANCELLED))
        elif request.deadline is not None and request.deadline <= now:
            drops.append(Drop(request.id, DropReason.EXPIRED))
        elif request.least > most and not request.slots and not request.ever_fits(limits):
            # The engine refuses these at its door; one that slips through must not hold the queue for ever.
            drops.append(Drop(request.id, DropReason.NEVER_FITS))
    return tuple(drops)
