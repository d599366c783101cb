"""What runs next: a policy without an engine. Pure data in, decision out; the same state gives the same plan.

One step: `plan(state, caps, cost, lengths, index)` says what to run, an engine runs it, `commit(state, plan, outcome)`
books it.
"""

from crayon.server.cost.model import CostModel, LinearCost
from crayon.server.forecast.kv_peak import KvForecast
from crayon.server.forecast.lengths import LengthModel, Lengths
from crayon.server.scheduler.ahead import plan_after
from crayon.server.scheduler.commit import commit
from crayon.server.scheduler.plan import plan
from crayon.server.scheduler.prefix_cache import PrefixIndex, TokenIndex
from crayon.server.scheduler.state import State
from crayon.server.steps.limits import Caps
from crayon.server.steps.request import Kind, Lane, Request
from crayon.server.steps.step_plan import (
    Admission,
    Changes,
    Drop,
    DropReason,
    KvOp,
    NanoBatch,
    Outcome,
    Prefix,
    Resource,
    Restore,
    Row,
    Share,
    Spill,
    StepPlan,
)

__all__ = [
    "Admission",
    "Caps",
    "Changes",
    "CostModel",
    "Drop",
    "DropReason",
    "Kind",
    "KvForecast",
    "KvOp",
    "Lane",
    "LengthModel",
    "Lengths",
    "LinearCost",
    "NanoBatch",
    "Outcome",
    "Prefix",
    "PrefixIndex",
    "Request",
    "Resource",
    "Restore",
    "Row",
    "Share",
    "Spill",
    "State",
    "StepPlan",
    "TokenIndex",
    "commit",
    "plan",
    "plan_after",
]
