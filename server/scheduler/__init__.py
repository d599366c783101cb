"""What runs next: a policy without an engine. Pure data in, decision out; the same state gives the same plan.

One step: `plan(state, limits, cost, lengths, index)` says what to run, an engine runs it, and
`commit(state, plan, outcome)` books it.
"""

from crayon.server.cost.model import CostModel, LinearCost
from crayon.server.forecast.kv_peak import KvForecast
from crayon.server.forecast.lengths import LengthModel, Lengths
from crayon.server.scheduler.ahead import plan_after
from crayon.server.scheduler.commit import commit
from crayon.server.scheduler.plan import plan
from crayon.server.scheduler.prefix_cache import PrefixIndex, TokenIndex
from crayon.server.scheduler.state import State
from crayon.server.steps.limits import StepLimits
from crayon.server.steps.request import Kind, Request, Slot
from crayon.server.steps.step_plan import (
    Admission,
    Changes,
    Drop,
    DropReason,
    IdlePrefix,
    KvOp,
    NanoBatch,
    Resource,
    Restore,
    Row,
    Share,
    Spill,
    StepOutcome,
    StepPlan,
)

__all__ = [
    "Admission",
    "Changes",
    "CostModel",
    "Drop",
    "DropReason",
    "IdlePrefix",
    "Kind",
    "KvForecast",
    "KvOp",
    "LengthModel",
    "Lengths",
    "LinearCost",
    "NanoBatch",
    "PrefixIndex",
    "Request",
    "Resource",
    "Restore",
    "Row",
    "Share",
    "Slot",
    "Spill",
    "State",
    "StepLimits",
    "StepOutcome",
    "StepPlan",
    "TokenIndex",
    "commit",
    "plan",
    "plan_after",
]
