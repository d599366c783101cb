"""What runs next: a policy without an engine. Pure data in, decision out; the same state gives the same plan.

One step: `plan(state, caps, cost)` says what to run, an engine runs it, `commit(state, plan, outcome)` books
it.
"""

from crayon.server.scheduler.caps import Caps
from crayon.server.scheduler.commit import commit
from crayon.server.scheduler.cost import CostModel, LinearCost
from crayon.server.scheduler.policy import plan
from crayon.server.scheduler.request import Kind, Lane, Request
from crayon.server.scheduler.state import State
from crayon.server.scheduler.step import (
    Admission,
    Changes,
    Drop,
    DropReason,
    KvOp,
    NanoBatch,
    Outcome,
    Resource,
    Row,
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
    "KvOp",
    "Lane",
    "LinearCost",
    "NanoBatch",
    "Outcome",
    "Request",
    "Resource",
    "Row",
    "State",
    "StepPlan",
    "commit",
    "plan",
]
