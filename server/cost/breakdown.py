"""Where the time of an engine call goes, against an engine that is kept full."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from crayon.server.cost.step_cost import StepCost, StepShape


class TimeSpent(NamedTuple):
    """Seconds of one call by what they went for; what the cost does not explain is not in it.

    Args:
        useful: what the tokens take in a full call.
        fill: the cost of the call as far as its tokens were too few to share it.
        memory: waiting for the weights, below the ridge.
        attention: attending to context.
        outputs: rows of logits.
        switches: changes of adapters.
    """

    useful: float
    fill: float
    memory: float
    attention: float
    outputs: float
    switches: float


def spent(shape: StepShape, cost: StepCost, batch: int) -> TimeSpent:
    """Return what the seconds of a call go for.

    Args:
        shape: the call's.
        cost: of the undisturbed machine.
        batch: tokens of a full call; the ridge's size if that is larger.
    """
    full = max(batch, cost.ridge)
    # Without an end to the ridge tokens cost nothing, so that no time of theirs is useful.
    per_token = 0.0 if math.isinf(full) else cost.per_token + cost.base / full
    return TimeSpent(
        useful=per_token * shape.tokens,
        fill=max(0.0, cost.base - (per_token - cost.per_token) * shape.tokens),
        memory=max(0.0, cost.weights - cost.per_token * shape.tokens),
        attention=cost.per_context * shape.context,
        outputs=cost.per_output * shape.outputs,
        switches=cost.per_switch * shape.switches,
    )
