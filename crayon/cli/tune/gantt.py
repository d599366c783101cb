"""One period of a planned pipeline as text: a row a class, a bar a piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.planner import Class

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.server.planner import NanoOperation, Pipeline

_IDLE = "."


def gantt(plan: Pipeline, width: int = 108) -> Iterator[str]:
    """Yield the rows. What crosses the end of the period goes on at its beginning, as it does in the next layer."""
    label = max(len(resource) for resource in Class)
    begin = min(piece.start for piece in plan.pieces)
    for resource in Class:
        cells = [_IDLE] * width
        for piece in plan.pieces:
            if piece.resource is resource:
                first, last = (round((at - begin) / plan.period * width) for at in (piece.start, piece.end))
                for offset, character in enumerate(_bar(piece, min(last - first, width))):
                    cells[(first + offset) % width] = character
        yield f"{resource.upper():{label}} {''.join(cells)}"


def _bar(piece: NanoOperation, width: int) -> str:
    """Return a bar of that width, with the name where it fits."""
    if width < 2:
        return "|" * width
    inside = width - 2
    for text in (piece.name, str(piece.index + 1)):
        if len(text) <= inside:
            return f"[{text:-<{inside}}]"
    return f"[{'-' * inside}]"
