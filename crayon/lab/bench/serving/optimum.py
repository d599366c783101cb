"""The bare library on the same file: the best that its kernels can do, which every server is held against."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.llama.batch import Batch
from crayon.llama.context import Context

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.lab.bench.serving.client import Run
    from crayon.llama.model import Model

UBATCHES = (32, 64, 128, 256, 512)
PROMPT = 512  # tokens read at a time
SHORT = 64  # tokens of one prompt among them: longer ones would count attention, which is a loss, as the library's best
HEADS = 64  # rows of logits, of PROMPT / 2, that the cost of one is taken from
SEQUENCES = 8
DEPTH = 128  # tokens that a sequence holds when its step is timed
STEPS = 16


@dataclass(frozen=True, slots=True)
class Optimum:
    """What the library does by itself.

    Args:
        prefill_rate: prompt tokens a second, no row of logits, at the best size of a graph and the best of two
            lengths of a prompt.
        ubatch: that size.
        head_seconds: what a row of logits costs on top.
        step_seconds: one step of 8 sequences that each decode a token.
    """

    prefill_rate: float
    ubatch: int
    head_seconds: float
    step_seconds: float

    def ideal_seconds(self, tokens: int, rows: int) -> float:
        """Return how long `tokens` computed tokens with `rows` rows of logits take at best."""
        return tokens / self.prefill_rate + rows * self.head_seconds

    def fraction(self, run: Run) -> float:
        """Return the share of the optimum that a whole offline run reached, its start and its end included."""
        return self._fraction(run, run.seconds)

    def saturated_fraction(self, run: Run) -> float:
        """Return the share up to the last first token: until then there always were prompts waiting.

        By that moment every prompt was computed, and the tokens of the answers so far are known.
        """
        return self._fraction(run, max(timing.arrivals[0][0] for timing in run.timings))

    def _fraction(self, run: Run, until: float) -> float:
        prompts = sum(len(timing.job.prompt.ids) for timing in run.timings)
        written = [sum(n for at, n in timing.arrivals if at <= until) for timing in run.timings]
        # A token of an answer is computed when the next one is wanted; the last never is.
        computed = prompts + sum(max(0, n - 1) for n in written)
        return self.ideal_seconds(computed, sum(written)) / until


def measure(model: Model, *, threads: int, runs: int = 5) -> Optimum:
    """Measure all of it; medians of `runs`, after one that warms up. The size of a graph is chosen by one run each."""
    _, ubatch = max((_prefill(model, size, SHORT, threads, 1), size) for size in UBATCHES)
    rate = max(_prefill(model, ubatch, length, threads, runs) for length in (SHORT, PROMPT))
    return Optimum(
        prefill_rate=rate,
        ubatch=ubatch,
        head_seconds=_head(model, threads, runs),
        step_seconds=_steps(model, threads),
    )


def decode_rate(model: Model, begin: int, answer: int, *, threads: int) -> float:
    """Return tokens a second of one sequence alone that decodes `answer` tokens after `begin` others.

    All steps count, slow ones too, as they do for who waits for an answer.
    """
    tokens = _tokens(model, begin + answer)
    with Context(model, n_ctx=begin + answer, n_batch=begin, threads=threads) as context:
        batch = Batch(begin)
        batch.add(tokens[:begin], 0, 0, "last")
        context.decode(batch)
        start = time.perf_counter()
        for at in range(begin, begin + answer - 1):
            batch.clear()
            batch.add(tokens[at : at + 1], at, 0, "all")
            context.decode(batch)
        return (answer - 1) / (time.perf_counter() - start)


def _prefill(model: Model, ubatch: int, length: int, threads: int, runs: int) -> float:
    """Return tokens a second of reading prompts of a length, each in cells of its own, in graphs of a size."""
    tokens = _tokens(model, PROMPT)
    count, piece = PROMPT // length, min(length, ubatch)
    with Context(
        model, n_ctx=PROMPT, n_batch=ubatch, n_seq_max=count, n_outputs_max=1, threads=threads, kv_unified=False
    ) as context:
        batch = Batch(ubatch)

        def read() -> None:
            context.clear()
            for begin in range(0, PROMPT, ubatch):
                batch.clear()
                for at in range(begin, begin + ubatch, piece):
                    batch.add(tokens[at : at + piece], at % length, at // length)
                context.decode(batch)

        return PROMPT / _median(read, runs)


def _head(model: Model, threads: int, runs: int) -> float:
    """Return seconds for one row of logits: steps with and without them, in turn."""
    size = PROMPT // 2
    tokens = _tokens(model, size)
    with Context(model, n_ctx=size, n_batch=size, n_outputs_max=HEADS, threads=threads) as context:
        batch = Batch(size)

        def step(*, rows: int) -> float:
            context.clear()
            batch.clear()
            batch.add(tokens[: size - rows], 0, 0)
            batch.add(tokens[size - rows :], size - rows, 0, "all")
            start = time.perf_counter()
            context.decode(batch)
            return time.perf_counter() - start

        step(rows=HEADS)
        found = [step(rows=HEADS) - step(rows=0) for _ in range(runs)]
        return max(0.0, statistics.median(found) / HEADS)


def _steps(model: Model, threads: int) -> float:
    """Return seconds for a step in which each of some sequences decodes one token."""
    tokens = _tokens(model, DEPTH + STEPS)
    cells = SEQUENCES * (DEPTH + STEPS)
    with Context(model, n_ctx=cells, n_batch=DEPTH, n_seq_max=SEQUENCES, threads=threads) as context:
        batch = Batch(DEPTH)
        for sequence in range(SEQUENCES):
            batch.clear()
            batch.add(tokens[:DEPTH], 0, sequence)
            context.decode(batch)
        taken = []
        for at in range(DEPTH, DEPTH + STEPS):
            batch.clear()
            for sequence in range(SEQUENCES):
                batch.add(tokens[at : at + 1], at, sequence, "all")
            start = time.perf_counter()
            context.decode(batch)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[1:])


def _median(work: Callable[[], None], runs: int) -> float:
    work()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _tokens(model: Model, count: int) -> list[int]:
    return [(7919 * i) % model.n_vocab for i in range(1, count + 1)]
