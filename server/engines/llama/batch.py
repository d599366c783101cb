"""One engine call: the rows of one blend that are computed together, and what is read from them."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from crayon.errors import CrayonError, EngineError, fault_report
from crayon.server.scheduler import Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from crayon.blending.lease import Lease
    from crayon.llama.batch import Logits
    from crayon.server.engines.llama.encoder import CentredEncoder
    from crayon.server.engines.llama.parts import StepRunner
    from crayon.server.engines.llama.tasks import Task
    from crayon.server.scheduler import NanoBatch, Row

logger = logging.getLogger("crayon.server.llama")

_NOTHING = (0,)  # any token will do: what it computes is thrown away


@dataclass(slots=True)
class EngineCall:
    """Rows with their tasks, on a runner; `spans` are the rows' places in the runner's batch."""

    runner: StepRunner
    encode: bool
    rows: list[Row]
    tasks: list[Task]
    spans: list[range]
    prompts: bool
    """Whether these are prompts, whose last token begins an answer."""
    bridges: dict[int, int] = field(default_factory=dict)
    """Sequences that compute a token of nothing (see `gaps`), and its position."""

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(row.tokens for row in self.rows)


def call_of(runner: StepRunner, nano: Sequence[NanoBatch], tasks: Mapping[str, Task], broken: set[str]) -> EngineCall:
    """Return the call of neighbouring nano-batches, without the rows of requests that are `broken`.

    Its rows are in the order of their sequences, whatever the plan's: see `gaps`.
    """
    rows = sorted((row for each in nano for row in each.rows if row.request not in broken), key=attrgetter("seq"))
    encode = nano[0].resource is Resource.ENCODE
    prompts = any(each.resource is Resource.PREFILL for each in nano)
    return EngineCall(runner, encode, rows, [tasks[row.request] for row in rows], [], prompts)


def fill(call: EngineCall) -> None:
    """Put the rows into the runner's batch."""
    batch, context = call.runner.batch, call.runner.context
    batch.clear()
    call.spans.clear()
    missing: list[int] = []
    if call.runner.bridges and not call.encode:
        missing = gaps([row.seq for row in call.rows], batch.capacity - call.tokens)
    for task, row in zip(call.tasks, call.rows, strict=True):
        while missing and missing[0] < row.seq:
            seq = missing.pop(0)
            position = context.length(seq)
            if position < context.n_ctx // context.n_seq_max:
                batch.add(_NOTHING, position, seq)
                call.bridges[seq] = position
        task.steps += 1
        call.spans.append(batch.add(task.tokens(row), row.start, row.seq, _wanted(row)))


def decode(call: EngineCall) -> None:
    """Compute the batch; on the runner's thread.

    Raises:
        EngineError: as `Context.decode`.
    """
    try:
        call.runner.decode()
    finally:
        for seq, position in call.bridges.items():
            if not call.runner.context.remove(seq, position):
                raise EngineError(f"a token of nothing stays in sequence {seq}: llama.cpp refuses to remove it")


def work(call: EngineCall, encoder: CentredEncoder | None) -> Callable[[], NDArray[np.float32] | None]:
    """Return what the runner's thread is to do; hidden states of shape (tokens, dimensions) come of encoding."""
    if not call.encode or encoder is None:
        return partial(decode, call)
    return lambda: encoder.decode(call.runner.batch)


def adapters_of(tasks: Sequence[Task]) -> Lease:
    """Return the adapters that all tasks of one engine call compute with; each task holds them from now on.

    Raises:
        EngineError: the plan put different blends into one call.
        CrayonError: the adapters cannot be loaded.
    """
    if len({task.entry.blend for task in tasks}) != 1:
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


# A graph more costs about as much as 6 rows without logits (SmolLM2-135M on 2 cores: 10 ms against 1.6).
MAX_GAP = 4


def gaps(seqs: Sequence[int], room: int, most: int = MAX_GAP) -> list[int]:
    """Return the sequences that are missing between `seqs`, in rising order.

    Args:
        seqs: those that are computed, rising; one may stand there more than once.
        room: most rows that may be added; gaps that do not fit stay.
        most: longer gaps stay: another graph is cheaper.
    """
    missing: list[int] = []
    for before, after in itertools.pairwise(seqs):
        between = range(before + 1, after)
        if len(between) <= min(most, room - len(missing)):
            missing += between
    return missing
