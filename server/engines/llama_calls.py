"""One engine call: the rows of one blend that are computed together, and what is read from them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import CrayonError, EngineError, fault_report
from crayon.server.scheduler import Resource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crayon.blending.lease import Lease
    from crayon.llama.batch import Logits
    from crayon.server.engines.llama_lanes import Lane
    from crayon.server.engines.llama_task import Task
    from crayon.server.scheduler import NanoBatch, Row

logger = logging.getLogger("crayon.server.llama")


@dataclass(slots=True)
class Call:
    """Rows with their tasks, on a lane; `spans` are the rows' places in the lane's batch."""

    lane: Lane
    encode: bool
    rows: list[Row]
    tasks: list[Task]
    spans: list[range]
    prompts: bool
    """Whether these are prompts, whose last token begins an answer."""

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(row.tokens for row in self.rows)


def call_of(lane: Lane, nano: Sequence[NanoBatch], tasks: Mapping[str, Task], broken: set[str]) -> Call:
    """Return the call of neighbouring nano-batches, without the rows of requests that are `broken`."""
    rows = [row for each in nano for row in each.rows if row.request not in broken]
    encode = nano[0].resource is Resource.ENCODE
    prompts = any(each.resource is Resource.PREFILL for each in nano)
    return Call(lane, encode, rows, [tasks[row.request] for row in rows], [], prompts)


def fill(call: Call) -> None:
    """Put the rows into the lane's batch."""
    batch = call.lane.batch
    batch.clear()
    call.spans = [
        batch.add(task.tokens(row), row.start, row.seq, _wanted(row))
        for task, row in zip(call.tasks, call.rows, strict=True)
    ]


def adapters_of(tasks: Sequence[Task]) -> Lease:
    """Return the adapters that all tasks of one engine call compute with; each task holds them from now on.

    Raises:
        EngineError: the plan put different blends into one call.
        CrayonError: the adapters cannot be loaded.
    """
    if len({task.request.blend for task in tasks}) != 1:
        raise EngineError("a step was planned with more than one blend in an engine call")
    held = [task.adapters() for task in tasks]
    return held[0]


def reported(error: BaseException, rows: int) -> CrayonError:
    """Log what failed and return what its callers are told."""
    if isinstance(error, CrayonError):
        logger.error("%d rows failed: %s", rows, error)  # no trace: it is llama.cpp's
        return error
    logger.error("%d rows failed: %s", rows, fault_report(error))
    return EngineError(f"the request could not be computed ({type(error).__name__}); the engine's log says where")


def _wanted(row: Row) -> Logits:
    if not row.logits:
        return "none"
    return "all" if row.logits == row.tokens else "last"
