"""Stage I: where operations are cut and in which order their pieces run, as if nothing slowed anything down.

A mixed integer program over start times, cuts in units of 128 tokens and order binaries:

- pieces of one class never run at once, in a layer or between neighbouring layers; each class finishes its pieces of a
  layer before those of the next;
- a piece waits for a piece of an operation that its own needs exactly if their token ranges intersect;
- what is minimised is the time from one layer to the next, which is the makespan of many layers, then the last end.

Pieces of one operation run in the order of their tokens: others are the same plan with other names.
"""

from __future__ import annotations

from itertools import combinations, pairwise, product
from typing import TYPE_CHECKING

from crayon.server.planner.milp import Program
from crayon.server.planner.pipeline import NanoOperation, Pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.server.planner.milp import SolverBudget
    from crayon.server.planner.operations import LayerWorkload, Operation

_Nano = tuple["Operation", int]
# How much an earlier end of the layer counts beside a shorter period: breaks ties only.
_HASTE = 1e-3


def find_structure(workload: LayerWorkload, counts: Mapping[str, int], budget: SolverBudget) -> Pipeline | None:
    """Return the best plan found with `counts` pieces for the operations of each group, all at full speed.

    None where none was found. Two pieces of different classes may run at once whatever they need together: that is
    for stage II.
    """
    stage = _Stage(workload, counts)
    stage.dependencies()
    stage.classes()
    values = stage.program.minimise({stage.period: 1.0, stage.last: _HASTE}, budget)
    if values is None:
        return None
    pieces: list[NanoOperation] = []
    for operation, index in stage.nanos:
        cuts = stage.cuts[operation.group]
        first, last = (round(values[place]) * workload.unit for place in cuts[index : index + 2])
        start = values[stage.start[operation.name, index]]
        pieces.append(NanoOperation(operation, index, first, last, start, workload.alone(operation, last - first)))
    return Pipeline(workload, values[stage.period], tuple(pieces))


class _Stage:
    """The program, and which variable stands for what."""

    def __init__(self, workload: LayerWorkload, counts: Mapping[str, int]) -> None:
        self.workload = workload
        self.counts = counts
        self.program = Program()
        self.nanos: list[_Nano] = [
            (operation, index) for operation in workload.operations for index in range(counts[operation.group])
        ]
        whole = workload.sequential()
        # Cutting costs: one piece after the other may take longer than the uncut operations do.
        fixed = sum(operation.fixed * (counts[operation.group] - 1) for operation in workload.operations)
        self.limit = whole + fixed / workload.layers
        self.period = self.program.number(0, whole)
        self.last = self.program.number(0, self.limit)
        self.start = {(o.name, index): self.program.number(0, self.limit) for o, index in self.nanos}
        self.cuts = {group: self._cut(counts[group]) for group in workload.groups}
        self._apart: dict[tuple[str, int, str, int], tuple[int, int]] = {}

    def _cut(self, count: int) -> list[int]:
        """Add the tokens, in units, where the pieces of a group begin, and the end."""
        units = self.workload.units
        places = [
            self.program.integer(0, 0),
            *(self.program.integer(i, units - count + i) for i in range(1, count)),
            self.program.integer(units, units),
        ]
        for first, last in pairwise(places):
            self.program.row({last: 1, first: -1}, low=1)
        return places

    def _end(self, nano: _Nano) -> tuple[dict[int, float], float]:
        """Return the end of a piece: terms, and what is added to them."""
        operation, index = nano
        cuts = self.cuts[operation.group]
        unit = (operation.measured - operation.fixed) / self.workload.layers / self.workload.units
        return (
            {self.start[operation.name, index]: 1.0, cuts[index + 1]: unit, cuts[index]: -unit},
            operation.fixed / self.workload.layers,
        )

    def _before(
        self, first: _Nano, then: _Nano, layers: int = 0, *, unless: tuple[int, ...] = (), when: int = -1
    ) -> None:
        """Demand that `first` ends before `then` of `layers` layers later starts.

        Not where a variable of `unless` is 1, nor where `when` is given and 0.
        """
        terms, fixed = self._end(first)
        terms[self.start[then[0].name, then[1]]] = -1.0
        if layers:
            terms[self.period] = -float(layers)
        big = 2 * self.limit
        high = -fixed
        for place in unless:
            terms[place] = -big
        if when >= 0:
            terms[when] = big
            high += big
        self.program.row(terms, high=high)

    def _meeting(self, one: _Nano, other: _Nano) -> tuple[int, ...] | None:
        """Return variables of which one is 1 only where two pieces share no token; None where they never share any."""
        (a, i), (b, j) = one, other
        if a.group == b.group:
            return () if i == j else None
        key = (a.group, i, b.group, j)
        if key not in self._apart:
            ours, theirs = self.cuts[a.group], self.cuts[b.group]
            units = self.workload.units
            left, right = self.program.binary(), self.program.binary()
            self.program.row({ours[i + 1]: 1, theirs[j]: -1, left: units}, high=units)
            self.program.row({theirs[j + 1]: 1, ours[i]: -1, right: units}, high=units)
            self._apart[key] = (left, right)
        return self._apart[key]

    def dependencies(self) -> None:
        """Add what waits for what."""
        operations = {operation.name: operation for operation in self.workload.operations}
        for child in self.workload.operations:
            for layers, names in ((0, child.after), (1, child.after_previous)):
                for parent in (operations[name] for name in names):
                    pairs = product(range(self.counts[parent.group]), range(self.counts[child.group]))
                    for i, j in pairs:
                        apart = self._meeting((parent, i), (child, j))
                        if apart is not None:
                            self._before((parent, i), (child, j), layers, unless=apart)
        for nano in self.nanos:
            terms, fixed = self._end(nano)
            self.program.row({**terms, self.last: -1.0}, high=-fixed)

    def classes(self) -> None:
        """Add that pieces of one class take turns."""
        for one, other in combinations(self.nanos, 2):
            if one[0].resource is not other[0].resource:
                continue
            self._before(one, other, 1)
            self._before(other, one, 1)
            if one[0] is other[0]:
                self._before(one, other)
                continue
            order = self.program.binary()
            self._before(one, other, when=order)
            self._before(other, one, unless=(order,))
        # Implied for whole numbers, but the solver's bound comes from broken ones.
        for resource in {operation.resource for operation in self.workload.operations}:
            mine = [operation for operation in self.workload.operations if operation.resource is resource]
            load = sum(o.measured + o.fixed * (self.counts[o.group] - 1) for o in mine) / self.workload.layers
            self.program.row({self.period: 1.0}, low=load)
