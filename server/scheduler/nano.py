"""One engine call of a step in parts of one resource class each, computed one after the other.

Tokens of answers are then known, and told, before the prompts beside them are read, and what is bound by memory is
not mixed with what is bound by compute. Each part reads the weights again: NanoFlow calls this nano-batching without
overlap, and loses 13 % by it. It is here to be measured, and for who prefers even answers to throughput.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.scheduler.split import split
from crayon.server.scheduler.step import NanoBatch, Resource

if TYPE_CHECKING:
    from collections.abc import Sequence

TILE = 16
"""Tokens that a prompt is cut at multiples of: what the kernels of a CPU compute at a time."""


def in_parts(call: Sequence[NanoBatch], parts: int) -> list[tuple[NanoBatch, ...]]:
    """Return a call in up to `parts` calls: decodes first, then what is read, cut into pieces of as many tokens.

    Encoding stays whole. Joined again the parts are the call, but for rows that were cut.

    Args:
        call: neighbouring nano-batches of one blend.
        parts: 1 leaves it as it is.

    Raises:
        ConfigError: `parts` is under 1.
    """
    if parts == 1 or any(nano.resource is Resource.ENCODE for nano in call):
        return [tuple(call)]
    writing = tuple(nano for nano in call if nano.resource is Resource.DECODE)
    reading = [nano for nano in call if nano.resource is not Resource.DECODE]
    if not reading:
        return [writing]
    rest = split(reading, TILE, parts - bool(writing))
    return [writing, *rest] if writing else rest
