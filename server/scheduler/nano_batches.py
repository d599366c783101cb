"""One engine call of a step in parts of one resource class each, computed one after the other.

Tokens of answers are then known, and told, before the prompts beside them are read, and what is bound by memory is
not mixed with what is bound by compute. Each part reads the weights again: NanoFlow calls this nano-batching without
overlap, and loses 13 % by it. It is here to be measured, and for who prefers even answers to throughput.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from crayon.server.steps.step_plan import NanoBatch, Resource

if TYPE_CHECKING:
    from collections.abc import Sequence

TILE = 16
"""Tokens that a prompt is cut at multiples of: what the kernels of a CPU compute at a time."""


def in_parts(call: Sequence[NanoBatch], parts: int) -> list[tuple[NanoBatch, ...]]:
    """Return a call in up to `parts` calls: decodes first, then what is read, cut into pieces of as many tokens.

    Encoding stays whole. Joined again the parts are the call, but for rows that were cut: the second piece of one needs
    the cells of the first, so parts are begun in order.

    Args:
        call: neighbouring nano-batches of one blend.
        parts: at least 1, which leaves it as it is.
    """
    if parts == 1 or any(nano.resource is Resource.ENCODE for nano in call):
        return [tuple(call)]
    writing = tuple(nano for nano in call if nano.resource is Resource.DECODE)
    reading = [nano for nano in call if nano.resource is not Resource.DECODE]
    rest = parts - bool(writing)
    total = sum(nano.tokens for nano in reading)
    cuts = {round(total * i / rest / TILE) * TILE for i in range(1, rest)}
    bounds = sorted({0, total, *(cut for cut in cuts if cut < total)})
    pieces = [_between(reading, first, last) for first, last in pairwise(bounds)]
    return [writing, *pieces] if writing else pieces


def _between(nano: Sequence[NanoBatch], first: int, last: int) -> tuple[NanoBatch, ...]:
    """Return the tokens of nano-batches from `first` to before `last`, counted over all of them."""
    found: list[NanoBatch] = []
    at = 0
    for batch in nano:
        rows = []
        for row in batch.rows:
            begin, end = max(first - at, 0), min(last - at, row.tokens)
            if begin < end:
                logits = end - max(begin, row.tokens - row.logits)  # they are of a row's last tokens
                rows.append(row._replace(start=row.start + begin, tokens=end - begin, logits=max(logits, 0)))
            at += row.tokens
        if rows:
            found.append(NanoBatch(batch.blend, batch.resource, tuple(rows)))
    return tuple(found)
