"""Where the time of a run went, against an engine that is kept full."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.server.scheduler.step_cost import StepCost, StepShape

# Shares are multiples of this: their sums are exact, in any order, unless a cost is off by a factor of a million.
_GRAIN = 2.0**-32


class Ran(NamedTuple):
    """A call that ran: its shape, its seconds in the engine, and those since the call before it ended.

    `wall` holds `engine`. Leave out the time in which there was nothing to do.
    """

    shape: StepShape
    engine: float
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Shares of a run's time; they sum to 1 exactly.

    Args:
        useful: what the tokens take at the engine's best rate: the fraction of the optimum.
        fill: the cost of each call as far as the tokens were too few to share it.
        memory: waiting for the weights, below the ridge.
        attention: attending to context.
        outputs: rows of logits.
        switches: changes of adapters.
        host: not in the engine at all: planning, sampling, handing out.
        rest: what the cost does not explain; below 0 where it predicts too much.
    """

    useful: float
    fill: float
    memory: float
    attention: float
    outputs: float
    switches: float
    host: float
    rest: float

    def shares(self) -> dict[str, float]:
        """Return the shares by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class Spent(NamedTuple):
    """Seconds of one call by what they went for, as `Loss` has them; what the cost does not explain is not in it."""

    useful: float
    fill: float
    memory: float
    attention: float
    outputs: float
    switches: float


def spent(shape: StepShape, cost: StepCost, batch: int, best: float | None = None) -> Spent:
    """Return what the seconds of a call go for; arguments as for `lost_time`."""
    full = max(batch, cost.ridge)
    per_token = cost.per_token + cost.base / full if best is None else 1 / best
    if best is None and math.isinf(full):
        per_token = 0.0  # tokens cost nothing, so that no time of theirs is useful
    return Spent(
        useful=per_token * shape.tokens,
        fill=max(0.0, cost.base - (per_token - cost.per_token) * shape.tokens),
        memory=max(0.0, cost.weights - cost.per_token * shape.tokens),
        attention=cost.per_context * shape.context,
        outputs=cost.per_output * shape.outputs,
        switches=cost.per_switch * shape.switches,
    )


def lost_time(calls: Sequence[Ran], cost: StepCost, batch: int, best: float | None = None) -> Loss:
    """Split the time of a run.

    Args:
        calls: what ran.
        cost: of the undisturbed machine; what a busy neighbour takes is then in `rest`.
        batch: tokens of a full call.
        best: the engine's best measured rate, in tokens a second; None is that of full calls without context, outputs
            and switches, of the ridge's size if `batch` is smaller.

    Raises:
        InvalidRequestError: nothing ran, or a call was in the engine for longer than it took.
    """
    wall = math.fsum(call.wall for call in calls)
    if not wall > 0:
        raise InvalidRequestError("calls", "must have taken some time")
    if any(not 0 <= call.engine <= call.wall for call in calls):
        raise InvalidRequestError("calls", "a call cannot be in the engine for longer than it took")
    if batch < 1 or (best is not None and not best > 0):
        raise InvalidRequestError("batch", "and the best rate must be above 0")

    def share(seconds: float) -> float:
        return round(seconds / wall / _GRAIN) * _GRAIN

    parts = zip(*(spent(call.shape, cost, batch, best) for call in calls), strict=True)
    useful, fill, memory, attention, outputs, switches = (share(math.fsum(part)) for part in parts)
    host = share(math.fsum(call.wall - call.engine for call in calls))
    known = useful + fill + memory + attention + outputs + switches + host
    return Loss(
        useful=useful,
        fill=fill,
        memory=memory,
        attention=attention,
        outputs=outputs,
        switches=switches,
        host=host,
        rest=1.0 - known,
    )
