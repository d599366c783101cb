"""Stage II: cuts and orders stay as stage I found them; which share each piece gets, and when it then runs.

A mixed integer program over start times, one binary for each piece and published share, and for each two pieces of
different classes that may come to run at once whether the first is done, the second is done, or they overlap:

- a piece takes its time alone over its performance at its share, from start to end;
- the shares of two, and of three, that overlap are at most 1 together;
- orders within a class are stage I's, and so is the order of two pieces that were far apart there;
- what is minimised is the time from one layer to the next. Starts are those of one layer, and m layers later a piece
  starts m periods later: the steady state itself, where NanoFlow's own code plans three layers.
"""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from crayon.server.planner.interference import SHARES, performance
from crayon.server.planner.milp import Program
from crayon.server.planner.operations import Class
from crayon.server.planner.pipeline import NanoOperation, Pipeline

if TYPE_CHECKING:
    from crayon.server.planner.milp import SolverBudget

# Two pieces that stage I put further apart than this part of a period keep their order.
_FAR = 0.3
# How far from where stage I put it a piece may start: this part later, and half a period either way.
_STRETCH = 1.5


def find_shares(structure: Pipeline, below: float, budget: SolverBudget) -> Pipeline | None:
    """Return the best plan found with the cuts and orders of `structure` and a period of at most `below` ms.

    None where none was found.
    """
    stage = _Stage(structure, below)
    stage.orders()
    stage.totals()
    stage.overlaps()
    values = stage.program.minimise({stage.period: 1.0}, budget)
    if values is None:
        return None
    pieces: list[NanoOperation] = []
    for place, piece in enumerate(structure.pieces):
        share = next(share for share, pick in stage.picks[place].items() if values[pick] > 0.5)
        duration = stage.alone[place] / performance(piece.resource, share)
        start = values[stage.starts[place]]
        pieces.append(NanoOperation(piece.operation, piece.index, piece.first, piece.last, start, duration, share))
    return Pipeline(structure.workload, values[stage.period], tuple(pieces))


class _Stage:
    """The program, and which variable stands for what."""

    def __init__(self, structure: Pipeline, below: float) -> None:
        self.structure = structure
        self.pieces = structure.pieces
        self.below = below
        self.program = Program()
        self.period = self.program.number(structure.period, below)
        half = structure.period / 2
        # The first of all is where time begins; a plan that runs later is the same plan.
        zero = min(piece.start for piece in self.pieces)
        anchor = min(range(len(self.pieces)), key=lambda place: self.pieces[place].start)
        self.bounds = [(piece.start - zero - half, _STRETCH * (piece.end - zero) + half) for piece in self.pieces]
        self.starts = [
            self.program.number(0, 0) if place == anchor else self.program.number(*bounds)
            for place, bounds in enumerate(self.bounds)
        ]
        self.alone = [structure.workload.alone(piece.operation, piece.tokens) for piece in self.pieces]
        self.picks = [{share: self.program.binary() for share in SHARES[piece.resource]} for piece in self.pieces]
        for pick in self.picks:
            self.program.row(dict.fromkeys(pick.values(), 1.0), low=1, high=1)
        size = range(len(self.pieces))
        # From how many layers later on the column's piece is surely after the row's.
        self.after: list[list[float]] = [[math.inf] * len(self.pieces) for _ in size]
        self.overlap: dict[tuple[int, int, int], int] = {}

    def _duration(self, place: int) -> dict[int, float]:
        resource = self.pieces[place].resource
        return {pick: self.alone[place] / performance(resource, share) for share, pick in self.picks[place].items()}

    def _before(self, first: int, then: int, layers: int, when: int | None = None) -> None:
        """Demand that `first` ends before `then` of `layers` layers later starts; only where `when` is 1 if given."""
        terms = self._duration(first)
        if first != then:
            terms[self.starts[first]] = 1.0
            terms[self.starts[then]] = -1.0
        if layers:
            terms[self.period] = -float(layers)
        if when is None:
            self.program.row(terms, high=0)
            self.after[first][then] = min(self.after[first][then], layers)
            return
        shortest = self.structure.period if layers >= 0 else self.below
        big = max(self.bounds[first][1] - self.bounds[then][0] - layers * shortest, 0.0)
        self.program.row({**terms, when: big}, high=big)

    def orders(self) -> None:
        """Add the orders that stay: within a class, and by dependency."""
        period = self.structure.period
        for resource in Class:
            mine = [place for place, piece in enumerate(self.pieces) if piece.resource is resource]
            if not mine:
                continue
            begin = min(self.pieces[place].start for place in mine)
            turn = {place: math.floor((self.pieces[place].start - begin) / period + 1e-6) for place in mine}
            mine.sort(key=lambda place: (self.pieces[place].start - turn[place] * period, place))
            for first, then in pairwise(mine):
                self._before(first, then, turn[first] - turn[then])
            self._before(mine[-1], mine[0], 1 + turn[mine[-1]] - turn[mine[0]])
        for child, piece in enumerate(self.pieces):
            for parent, other in enumerate(self.pieces):
                layers = piece.waits(other)
                if layers is not None:
                    self._before(parent, child, layers)
            # A piece is before itself of the next layer.
            self.after[child][child] = min(self.after[child][child], 1)

    def totals(self) -> None:
        """Add what follows for sums over a period: the solver's bound is poor without them."""
        for resource in Class:
            load: dict[int, float] = {self.period: -1.0}
            for place, piece in enumerate(self.pieces):
                if piece.resource is resource:
                    load.update(self._duration(place))
            self.program.row(load, high=0)
        area: dict[int, float] = {self.period: -1.0}
        for place, pick in enumerate(self.picks):
            duration = self._duration(place)
            area.update({variable: share * duration[variable] for share, variable in pick.items()})
        self.program.row(area, high=0)

    def _close(self) -> None:
        """Follow chains of orders to their ends."""
        after = self.after
        size = range(len(after))
        for middle in size:
            for first in size:
                for then in size:
                    after[first][then] = min(after[first][then], after[first][middle] + after[middle][then])

    def overlaps(self) -> None:
        """Add what may run at once, and the limit on its shares."""
        self._close()
        period = self.structure.period
        for i, j in combinations(range(len(self.pieces)), 2):
            one, other = self.pieces[i], self.pieces[j]
            if one.resource is other.resource:
                continue
            lowest = math.floor((one.start - other.end) / period) - 1
            highest = math.ceil((one.end - other.start) / period) + 1
            for layers in range(lowest, highest + 1):
                if layers >= self.after[i][j] or -layers >= self.after[j][i]:
                    continue
                if other.start + layers * period - one.end > _FAR * period:
                    self._before(i, j, layers)
                elif one.start - (other.end + layers * period) > _FAR * period:
                    self._before(j, i, -layers)
                else:
                    self._undecided(i, j, layers)
        self._triples()

    def _undecided(self, i: int, j: int, layers: int) -> None:
        first, then, both = (self.program.binary() for _ in range(3))
        self.program.row({first: 1, then: 1, both: 1}, low=1, high=1)
        self._before(i, j, layers, when=first)
        self._before(j, i, -layers, when=then)
        self._limit((i, j), (both,))
        self.overlap[i, j, layers] = both

    def _triples(self) -> None:
        """Three pieces that overlap two by two have a moment in common, on a line."""
        for (i, j, near), one in self.overlap.items():
            for (same, k, far), other in self.overlap.items():
                third = self.overlap.get((j, k, far - near)) if same == i and k > j else None
                if third is not None:
                    self._limit((i, j, k), (one, other, third))

    def _limit(self, places: tuple[int, ...], overlaps: tuple[int, ...]) -> None:
        """Let the shares of `places` be at most 1 together where all `overlaps` are 1."""
        terms: dict[int, float] = dict.fromkeys(overlaps, 1.0)
        for place in places:
            terms.update({pick: share for share, pick in self.picks[place].items()})
        self.program.row(terms, high=1.0 + len(overlaps))
