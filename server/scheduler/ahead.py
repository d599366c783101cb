"""The step after the one that runs, planned while it runs.

NanoFlow forms the next batch before it knows which answers end with this one, and pays a wasted token for each that
does (section 4.2 there). Where tokens are bound late, as in llama.cpp, nothing has to be wasted: the plan is made for
the state as it will be if nobody's answer ends by itself, nobody comes and nobody leaves. If that is how it goes it is
the very plan that would be made then; if not, it is thrown away, and planning again costs a fraction of a millisecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.scheduler.commit import commit
from crayon.server.scheduler.plan import plan
from crayon.server.steps.step_plan import StepOutcome

if TYPE_CHECKING:
    from crayon.server.cost.model import CostModel
    from crayon.server.forecast.lengths import LengthModel
    from crayon.server.scheduler.prefix_cache import PrefixIndex
    from crayon.server.scheduler.state import State
    from crayon.server.steps.limits import StepLimits
    from crayon.server.steps.step_plan import StepPlan


def plan_after(
    state: State,
    step: StepPlan,
    limits: StepLimits,
    cost: CostModel,
    lengths: LengthModel | None = None,
    index: PrefixIndex | None = None,
) -> StepPlan:
    """Return what follows `step`, which is planned from `state` and not booked yet; changes neither.

    It holds if all of `step` is computed, no answer ends but at its `max_tokens`, and nobody has come, was cancelled
    or has expired since.

    Args:
        state: as for `plan`.
        step: what is running.
        limits: as for `plan`.
        cost: as for `plan`.
        lengths: as for `plan`.
        index: as for `plan`.
    """
    touched = [*(item.request for item in step.admissions), *(item.request for item in step.drops)]
    later = state.copy(touched)
    commit(later, step, StepOutcome())
    return plan(later, limits, cost, lengths, index)
