"""A plan: where each nano-operation of a layer stands; every next layer repeats it one period later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crayon.server.planner.operations import Class, LayerWorkload, Operation


@dataclass(frozen=True, slots=True)
class NanoOperation:
    """A nano-operation: one operation on the tokens from `first` to before `last`, as it runs in the first layer.

    `start` and `duration` are ms; in layer n it starts n periods later.
    """

    operation: Operation
    index: int
    first: int
    last: int
    start: float
    duration: float
    share: float = 1.0

    @property
    def resource(self) -> Class:
        """What it keeps busy."""
        return self.operation.resource

    @property
    def name(self) -> str:
        """The operation's name and the number of the piece, from 1."""
        return f"{self.operation.name}{self.index + 1}"

    @property
    def tokens(self) -> int:
        """How many tokens it is for."""
        return self.last - self.first

    @property
    def end(self) -> float:
        """When it is done."""
        return self.start + self.duration

    def meets(self, other: NanoOperation) -> bool:
        """Return whether some tokens are in both."""
        return self.first < other.last and other.first < self.last

    def waits(self, parent: NanoOperation) -> int | None:
        """Return how many layers before its own the piece `parent` must have run; None where it need not."""
        if not self.meets(parent):
            return None
        if parent.operation.name in self.operation.after:
            return 0
        return 1 if parent.operation.name in self.operation.after_previous else None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The pieces of one layer, and the time from one layer to the next. Neighbouring layers may overlap."""

    workload: LayerWorkload
    period: float
    pieces: tuple[NanoOperation, ...]

    @property
    def span(self) -> float:
        """The time from the first start to the last end of one layer."""
        return max(piece.end for piece in self.pieces) - min(piece.start for piece in self.pieces)

    @property
    def makespan(self) -> float:
        """The time of all layers, in ms."""
        return (self.workload.layers - 1) * self.period + self.span


def sequential(workload: LayerWorkload) -> Pipeline:
    """Return the plan that overlaps nothing: whole operations, one after the other."""
    pieces: list[NanoOperation] = []
    now = 0.0
    for operation in workload.operations:
        pieces.append(NanoOperation(operation, 0, 0, workload.tokens, now, workload.alone(operation, workload.tokens)))
        now = pieces[-1].end
    return Pipeline(workload, now, tuple(pieces))
