"""Whether a plan may run, found without the search: layers are laid out in time and looked at moment by moment."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from crayon.server.planner.interference import performance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.server.planner.pipeline import NanoOperation, Pipeline

TOLERANCE = 1e-5
"""Milliseconds (or shares) below which a difference is the solver's rounding; ten nanoseconds."""


def faults(pipeline: Pipeline) -> list[str]:
    """Return everything that is wrong with a plan, in words; empty where it may run."""
    found = [*_ranges(pipeline), *_times(pipeline), *_dependencies(pipeline)]
    # Durations and periods that make no sense cannot be laid out.
    return found if any(_sane(pipeline)) else [*found, *_moments(pipeline)]


def _ranges(pipeline: Pipeline) -> Iterator[str]:
    """Yield tokens that an operation computes not once, and pieces that are not of whole units."""
    workload = pipeline.workload
    known = {operation.name for operation in workload.operations}
    for piece in pipeline.pieces:
        if piece.operation.name not in known:
            yield f"{piece.name} is of no operation of the workload"
    for operation in workload.operations:
        pieces = sorted((p for p in pipeline.pieces if p.operation == operation), key=lambda piece: piece.first)
        reached = 0
        for piece in pieces:
            if piece.first != reached:
                yield f"{piece.name} begins at token {piece.first}, not {reached}"
            if piece.tokens <= 0 or piece.tokens % workload.unit:
                yield f"{piece.name} has {piece.tokens} tokens, which is no multiple of {workload.unit}"
            reached = piece.last
        if reached != workload.tokens:
            yield f"{operation.name} ends at token {reached}, not {workload.tokens}"


def _sane(pipeline: Pipeline) -> Iterator[str]:
    """Yield times that are no numbers, and durations and periods that are not positive."""
    if not (math.isfinite(pipeline.period) and pipeline.period > 0):
        yield f"the period is {pipeline.period} ms"
    for piece in pipeline.pieces:
        if not (math.isfinite(piece.start) and math.isfinite(piece.duration) and piece.duration > 0):
            yield f"{piece.name} starts at {piece.start} ms and takes {piece.duration} ms"


def _times(pipeline: Pipeline) -> Iterator[str]:
    """Yield pieces that do not take as long as their tokens and shares say."""
    yield from _sane(pipeline)
    for piece in pipeline.pieces:
        if not 0 < piece.share <= 1:
            yield f"{piece.name} has a share of {piece.share}"
            continue
        alone = pipeline.workload.alone(piece.operation, piece.tokens)
        needed = alone / performance(piece.resource, piece.share)
        if abs(piece.duration - needed) > TOLERANCE:
            yield f"{piece.name} takes {piece.duration:.6f} ms, not {needed:.6f}"


def _dependencies(pipeline: Pipeline) -> Iterator[str]:
    """Yield pieces that start before what they need of their tokens is done, in their layer and the one before."""
    for child in pipeline.pieces:
        for parent in pipeline.pieces:
            if child.first >= parent.last or parent.first >= child.last:
                continue
            for layers, names in ((0, child.operation.after), (1, child.operation.after_previous)):
                start = child.start + layers * pipeline.period
                if parent.operation.name in names and start < parent.end - TOLERANCE:
                    yield f"{child.name} starts {parent.end - start:.6f} ms before {parent.name} is done"


def _moments(pipeline: Pipeline) -> Iterator[str]:
    """Yield moments at which two pieces of a class run, or more shares than there are."""
    # Enough layers that the middle one has all the neighbours that it will ever have.
    reach = math.ceil(pipeline.span / pipeline.period) + 1
    laid = [
        (piece.start + layer * pipeline.period, piece.end + layer * pipeline.period, layer, piece)
        for layer in range(2 * reach + 1)
        for piece in pipeline.pieces
    ]
    told: set[str] = set()
    for start, end, layer, _ in laid:
        if layer != reach:
            continue
        # What runs changes at starts only for the worse, so looking at each start is enough. The tolerance steps over
        # pieces that end just there; one that is shorter than it cannot be seen.
        moment = min(start + TOLERANCE, (start + end) / 2)
        running = [piece for begin, stop, _, piece in laid if begin <= moment < stop - TOLERANCE]
        for text in _together(running):
            if text not in told:
                told.add(text)
                yield text


def _together(running: list[NanoOperation]) -> Iterator[str]:
    names = " and ".join(sorted(piece.name for piece in running))
    counts = Counter(piece.resource for piece in running)
    for resource, count in counts.items():
        if count > 1:
            yield f"{names} run at once, {count} of them on {resource}"
    total = sum(piece.share for piece in running)
    if total > 1 + TOLERANCE:
        yield f"{names} hold {total:.2f} of the GPU together"
