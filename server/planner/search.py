"""The search: cuts and orders first, then shares. Every plan that it returns has passed the checker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import EngineError
from crayon.server.planner.checker import faults
from crayon.server.planner.milp import SolverBudget
from crayon.server.planner.operations import Class
from crayon.server.planner.pipeline import Pipeline, sequential
from crayon.server.planner.shares import find_shares
from crayon.server.planner.structure import find_structure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from crayon.server.planner.operations import LayerWorkload

# Less than this part of a period is no gain: it is within the solver's gap.
_GAIN = 0.002
# More pieces than this of one operation no plan of the paper has, and each multiplies the orders there are.
_MOST_PIECES = 4
# Nodes and gap of one program. On LLaMA-2-70B both stages end by their gap.
_STRUCTURE = (3000, 0.002)
_SHARES = (1500, 0.005)
# The part of the time that the structures may take, so that a slow machine still gets to shares.
_FIRST_STAGE = 0.4


@dataclass(frozen=True, slots=True)
class BestPlan:
    """The best plan, and whether the search came to its own end before the clock did."""

    pipeline: Pipeline
    in_time: bool


def search(
    workloads: Sequence[LayerWorkload], *, seconds: float, progress: Callable[[str], None] = lambda _: None
) -> BestPlan:
    """Return the best plan found among workloads that compute the same in different ways.

    The same on every machine where `seconds` are enough. Never worse than one operation after the other.

    Raises:
        MissingExtraError: the extra 'plan' is not installed.
        EngineError: a plan did not pass the checker, which is a fault of the planner.
    """
    started = SolverBudget.of(0, *_STRUCTURE).deadline
    clock = SolverBudget(started + _FIRST_STAGE * seconds, *_STRUCTURE)
    later = SolverBudget(started + seconds, *_SHARES)
    best = min((sequential(workload) for workload in workloads), key=lambda plan: plan.period)
    grown = [structure for workload in workloads for structure in _grow(workload, clock, progress)]
    in_time = clock.left() > 0
    # The most promising first: what they reach bounds the others.
    for structure in sorted(grown, key=lambda structure: structure.period):
        if structure.period >= best.period:
            break
        plan = find_shares(structure, best.period, later)
        progress(f"shares for {_cut(structure)}: {'nothing better' if plan is None else _period(plan)}")
        if plan is not None and plan.period < best.period:
            best = _checked(plan)
    return BestPlan(best, in_time=in_time and later.left() > 0)


def _grow(workload: LayerWorkload, clock: SolverBudget, progress: Callable[[str], None]) -> Iterator[Pipeline]:
    """Yield structures of ever more pieces, from two for each operation, each better than the one before."""
    counts = dict.fromkeys(workload.groups, min(2, workload.units))
    best = find_structure(workload, counts, clock)
    while best is not None:
        progress(f"structure of {_cut(best)}: {_period(best)}, computing {_busy(best):.0%} of it")
        yield best
        if _busy(best) > 1 - _GAIN:
            return
        limit = best.period * (1 - _GAIN)
        best = None
        for more in [{**counts, group: count + 1} for group, count in counts.items()]:
            if max(more.values()) <= min(_MOST_PIECES, workload.units):
                tried = find_structure(workload, more, clock)
                if tried is not None and tried.period < limit:
                    best, counts, limit = tried, more, tried.period


def _busy(plan: Pipeline) -> float:
    """Return the part of the time that something computes; the rest are bubbles."""
    return sum(piece.duration for piece in plan.pieces if piece.resource is Class.COMPUTE) / plan.period


def _cut(plan: Pipeline) -> str:
    """Return how often each operation is cut."""
    counts: dict[str, int] = {}
    for piece in plan.pieces:
        counts[piece.operation.name] = max(counts.get(piece.operation.name, 0), piece.index + 1)
    return ", ".join(f"{name} x{count}" for name, count in counts.items())


def _period(plan: Pipeline) -> str:
    return f"{plan.period:.3f} ms a layer"


def _checked(plan: Pipeline) -> Pipeline:
    wrong = faults(plan)
    if wrong:
        raise EngineError(f"the planner found a plan that cannot run, please report it: {'; '.join(wrong)}")
    return plan
