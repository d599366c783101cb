"""Reading prompts and writing answers at the same time, each on cores of its own, against one after the other.

Two contexts of one model compute in two threads. Each thread binds itself before its context computes for the first
time: the library's workers inherit the cores of the thread that makes them.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from crayon.errors import EngineError
from crayon.llama.context import Context
from crayon.machine import usable_cores
from crayon.server.steps.step_plan import Row
from crayon.server.tuning.filled import Filled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.llama.model import Model
    from crayon.server.tuning.choice import TunedSettings
    from crayon.server.tuning.saturation import ExpectedLoad, Steady


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """What two at once are worth.

    Args:
        prefill_cores, decode_cores: how the cores were split.
        prefill_s, decode_s: a call of each alone, on all cores.
        prefill_both_s, decode_both_s: the same while the other runs too, each on its part.
        ratio: work done together, in the seconds it takes one after the other, over the time it took: above 1 the
            overlap gains over two calls in turn, but not yet over one call that does both.
        tokens_per_s: tokens read and written a second in the workload's proportion, where the slower side decides.
    """

    prefill_cores: int
    decode_cores: int
    prefill_s: float
    decode_s: float
    prefill_both_s: float
    decode_both_s: float
    ratio: float
    tokens_per_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def can_bind() -> bool:
    """Whether this system lets a thread choose its cores, and there are two to split."""
    return hasattr(os, "sched_setaffinity") and usable_cores() >= 2


def interfere(
    model: Model, choice: TunedSettings, load: Steady, workload: ExpectedLoad, prefill_cores: int, seconds: float
) -> Interference:
    """Measure three times `seconds` / 3: reading alone, writing alone, both.

    Raises:
        EngineError: the cores cannot be split so, or a call failed.
    """
    cores = sorted(os.sched_getaffinity(0))[: usable_cores()]
    if not 1 <= prefill_cores < len(cores):
        raise EngineError(f"{len(cores)} cores cannot be split with {prefill_cores} for prompts")
    answers = max(1, load.decoding)
    # At least as many sequences as the answers; the other context reads into one.
    prompt = [Row("tune", 0, 0, min(workload.prompt, choice.n_batch), 1)]
    writing = [Row("tune", seq, workload.depth, 1, 1) for seq in range(answers)]

    def reader(mine: Sequence[int]) -> _Side:
        return _Side(model, mine, prompt, n_ctx=max(workload.prompt, choice.n_batch), depth=0, sequences=1)

    def writer(mine: Sequence[int]) -> _Side:
        n_ctx, depth, unified = workload.n_ctx, workload.depth, choice.kv_unified
        return _Side(model, mine, writing, n_ctx=n_ctx, depth=depth, sequences=answers, unified=unified)

    (prefill_s,) = _together([reader(cores)], seconds / 3)
    (decode_s,) = _together([writer(cores)], seconds / 3)
    both = _together([reader(cores[:prefill_cores]), writer(cores[prefill_cores:])], seconds / 3)
    reads = prompt[0].tokens / both[0] / workload.prompt
    writes = answers / both[1] / workload.answer
    return Interference(
        prefill_cores=prefill_cores,
        decode_cores=len(cores) - prefill_cores,
        prefill_s=prefill_s,
        decode_s=decode_s,
        prefill_both_s=both[0],
        decode_both_s=both[1],
        ratio=prefill_s / both[0] + decode_s / both[1],
        tokens_per_s=workload.tokens * min(reads, writes),
    )


class _Side:
    """One context, bound to its cores, that runs the same call again and again."""

    def __init__(
        self,
        model: Model,
        cores: Sequence[int],
        rows: list[Row],
        *,
        n_ctx: int,
        depth: int,
        sequences: int,
        unified: bool = True,
    ) -> None:
        self._model = model
        self._cores = tuple(cores)
        self._rows = rows
        self._n_ctx = n_ctx
        self._depth = depth
        self._sequences = sequences
        self._unified = unified
        self.times: list[float] = []
        self.error: Exception | None = None

    def run(self, meet: Callable[[], object], until: Callable[[], bool]) -> None:
        """Make the context, meet the other side, compute until told."""
        try:
            os.sched_setaffinity(0, self._cores)
            batch = max(self._rows[0].tokens, self._sequences, 64)
            with Context(
                self._model,
                n_ctx=self._n_ctx,
                n_batch=batch,
                n_seq_max=self._sequences,
                n_outputs_max=self._sequences,
                threads=len(self._cores),
                kv_unified=self._unified,
            ) as context:
                filled = Filled(context)
                filled.fill(self._sequences, self._depth)
                filled.run(self._rows)
                meet()
                while not until() or not self.times:
                    self.times.append(filled.run(self._rows))
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            self.error = error


def _together(sides: Sequence[_Side], seconds: float) -> list[float]:
    """Run the sides at once until each has three calls and the time is over; return the median call of each."""
    barrier = threading.Barrier(len(sides))
    begun: list[float] = []

    def meet() -> None:
        barrier.wait(timeout=60)
        begun.append(time.perf_counter())

    def until() -> bool:
        # A side that failed would be waited for for ever.
        enough = all(len(side.times) >= 3 or side.error for side in sides)
        return enough and time.perf_counter() - begun[0] >= seconds

    threads = [threading.Thread(target=side.run, args=(meet, until), name="crayon-tune") for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for side in sides:
        if side.error is not None:
            raise EngineError(f"two contexts at once cannot be measured: {side.error}") from side.error
    return [statistics.median(side.times) for side in sides]
