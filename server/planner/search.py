"""The search: cuts and orders first, then shares. Every plan that it returns has passed the checker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import EngineError
from crayon.server.planner.checker import faults
from crayon.server.planner.milp import Budget
from crayon.server.planner.operations import Class
from crayon.server.planner.pipeline import Pipeline, sequential
from crayon.server.planner.shares import find_shares
from crayon.server.planner.structure import find_structure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from crayon.server.planner.operations import Workload

Counts = dict[str, int]

# Less than this part of a period is no gain: it is within the solver's gap.
_GAIN = 0.002
# More pieces than this of one operation no plan of the paper has, and each doubles the orders there are.
_MOST_PIECES = 4
_STRUCTURE = (3000, 0.002)
_SHARES = (1500, 0.005)


@dataclass(frozen=True, slots=True)
class Found:
    """The best plan, the structure it grew from, and whether the clock left the search its nodes."""

    pipeline: Pipeline
    structure: Pipeline
    in_time: bool


def search(
    workloads: Sequence[Workload], *, seconds: float, progress: Callable[[str], None] = lambda _: None
) -> Found:
    """Return the best plan found among workloads that compute the same in different ways.

    The same on every machine where `seconds` are enough. Never worse than one operation after the other.

    Raises:
        MissingExtraError: the extra 'plan' is not installed.
        EngineError: a plan did not pass the checker, which is a fault of the planner.
    """
    clock = Budget.of(seconds, *_STRUCTURE)
    best = min((sequential(workload) for workload in workloads), key=lambda plan: plan.period)
    found = Found(best, best, in_time=True)
    grown = [structure for workload in workloads for structure in _grow(workload, clock, progress)]
    # The most promising first: what they reach bounds the others.
    for structure in sorted(grown, key=lambda structure: structure.period):
        if structure.period >= found.pipeline.period:
            break
        plan = find_shares(structure, found.pipeline.period, Budget(clock.deadline, *_SHARES))
        progress(f"shares for {_cut(structure)}: {'nothing better' if plan is None else _period(plan)}")
        if plan is not None and plan.period < found.pipeline.period:
            found = Found(_checked(plan), structure, in_time=True)
    return Found(found.pipeline, found.structure, in_time=clock.left() > 0)


def _grow(workload: Workload, clock: Budget, progress: Callable[[str], None]) -> Iterator[Pipeline]:
    """Yield structures of ever more pieces, from two for each operation, each better than the one before."""
    counts: Counts = dict.fromkeys(workload.groups, min(2, workload.units))
    best = find_structure(workload, counts, clock)
    while best is not None:
        progress(f"structure of {_cut(best)}: {_period(best)}, computing {_busy(best):.0%} of it")
        yield best
        tries = [
            (tried, {**counts, group: counts[group] + 1})
            for group in counts
            if counts[group] < min(_MOST_PIECES, workload.units) and _busy(best) < 1 - _GAIN
            if (tried := find_structure(workload, {**counts, group: counts[group] + 1}, clock)) is not None
        ]
        better, counts = min(tries, key=lambda item: item[0].period, default=(best, counts))
        best = better if better.period < best.period * (1 - _GAIN) else None


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
