"""A plan in parts that an engine may overlap: while one computes, the next is read, sampled or sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.errors import ConfigError
from crayon.server.scheduler.step import NanoBatch, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def split(
    nano: Sequence[NanoBatch], tile: int, parts: int, seconds: Callable[[Row], float] | None = None
) -> list[tuple[NanoBatch, ...]]:
    """Cut nano-batches into contiguous parts that take about as long as each other.

    Cuts are at multiples of `tile` tokens, each the nearest to where equal times would part, so a part takes at most
    one tile longer than its share, and small plans have fewer parts. A row may be cut: its second piece needs the
    cells of the first, so parts are begun in order. Joined again they are the plan.

    Args:
        nano: the plan's.
        tile: what the engine's kernels compute at a time.
        parts: most parts.
        seconds: predicted time of a row; None: as many tokens.

    Raises:
        ConfigError: a number is under 1.
    """
    for key, value in (("tile", tile), ("parts", parts)):
        if value < 1:
            raise ConfigError(key, f"must be at least 1, not {value}")
    rows = [row for batch in nano for row in batch.rows]
    cuts = _cuts(rows, tile, parts, [seconds(row) if seconds else float(row.tokens) for row in rows])
    made: list[tuple[NanoBatch, ...]] = []
    part: list[NanoBatch] = []
    at = 0
    for batch in nano:
        mine: list[Row] = []
        for whole in batch.rows:
            row = whole
            while cuts and at + row.tokens > cuts[0]:
                head, row = _cut(row, cuts.pop(0) - at)
                if head is not None:
                    mine.append(head)
                    at += head.tokens
                if mine:
                    part.append(NanoBatch(batch.blend, batch.resource, tuple(mine)))
                made.append(tuple(part))
                mine, part = [], []
            mine.append(row)
            at += row.tokens
        part.append(NanoBatch(batch.blend, batch.resource, tuple(mine)))
    return [*made, tuple(part)] if part else made


def _cuts(rows: list[Row], tile: int, parts: int, times: list[float]) -> list[int]:
    """Return the tokens before each cut, ascending."""
    share = sum(times) / parts
    cuts: list[int] = []
    tokens, passed = 0, 0.0
    for row, time in zip(rows, times, strict=True):
        while len(cuts) < parts - 1 and passed + time >= share * (len(cuts) + 1):
            inside = (share * (len(cuts) + 1) - passed) / time if time > 0 else 0.0
            cuts.append(round((tokens + inside * row.tokens) / tile) * tile)
        tokens += row.tokens
        passed += time
    return sorted({cut for cut in cuts if 0 < cut < tokens})


def _cut(row: Row, tokens: int) -> tuple[Row | None, Row]:
    """Return the first `tokens` tokens of a row (None: none) and the rest; logits are of the last ones."""
    if not tokens:
        return None, row
    later = min(row.logits, row.tokens - tokens)
    head = row._replace(tokens=tokens, logits=row.logits - later)
    return head, row._replace(start=row.start + tokens, tokens=row.tokens - tokens, logits=later)
