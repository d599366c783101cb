"""Preparing a model for the CPU at hand: the fastest quantization here within an allowed loss of quality."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from crayon.contention import BUSY, lacking, look
from crayon.errors import ModelFileError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.quantize import quantize
from crayon.models.prepared import SOURCE, SOURCE_KEY, TYPE_KEY, Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.contention import Look

# Types that this library has fast kernels for on x86 and ARM CPUs: repacked at load (Q4_0, IQ4_NL, Q4_K, Q8_0) or
# multiplied in tiles (Q8_0, Q5_0, Q6_K). Best quality first.
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "IQ4_NL", "Q4_0")
MAX_LOSS = 0.01  # perplexity +1 % and 0.01 nats
TIE = 0.05  # two types this close in speed count as equal, and the better one wins
WINDOW = 256  # tokens of context in which quality is compared
ROUNDS = 3
SECONDS = 60.0  # for all types together, about
# Most often chosen first, for where there is no time for all.
ORDER = ("Q4_0", "Q8_0", "IQ4_NL", "Q4_K_M", "Q5_0", "Q6_K", "Q5_K_M")
AGREE = 1.3  # a ratio that is this much smaller when it is measured again was noise

NO_LOSS = (1.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class TypePair:
    """A candidate, and what the source's own turns took beside it: seconds to read and to write."""

    candidate: Candidate
    reference_turns: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class MeasuredTypes:
    """The source, and types in the order they were named; `skipped` had no time, `missed` is cores others took."""

    candidates: tuple[Candidate, ...]
    skipped: tuple[str, ...]
    missed: float

    @property
    def busy(self) -> bool:
        """Whether neighbours may have made the figures."""
        return self.missed >= BUSY


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """The type that was chosen and why, in a sentence for the user."""

    candidate: Candidate
    reason: str


def measure(
    source: Path,
    folder: Path,
    *,
    text: str,
    source_sha256: str,
    types: Iterable[str] = TYPES,
    prompt_tokens: int = 200,
    answer_tokens: int = 50,
    threads: int | None = None,
    seconds: float = SECONDS,
    progress: Callable[[str, float], None] | None = None,
) -> MeasuredTypes:
    """Requantize `source` to each type, in a file in `folder` that is removed again, and measure it beside the source.

    Speed is the median of ratios of pairs run one after the other, so that a machine's moods cancel out. `progress`
    gets what is going on and the share done. Where `seconds` are not enough, quality is compared on less of the text
    first, then fewer types are tried, at least one.

    Raises:
        ModelFileError: a file cannot be read or written.
    """
    types = tuple(types)
    report = progress or (lambda _what, _share: None)
    begun, before, last = time.monotonic(), look(), 0.0
    pairs: dict[str, TypePair] = {}
    with Model(source) as base, TurnBench(base, prompt_tokens, answer_tokens, threads) as reference:
        tokens = base.tokenize(text)
        reference.turn()  # first touches of the weights and of the caches are not measured
        turn = reference.turn()
        order = sorted(types, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
        for i, name in enumerate(order):
            started = time.monotonic()
            left = seconds - (started - begun)
            if pairs and last > left:
                break
            path = folder / f"{name}.gguf"
            report(f"{name}: requantizing{_beside(before, threads)}", i / len(types))
            write(source, path, name, source_sha256)
            written = time.monotonic()
            try:
                report(f"{name}: measuring{_beside(before, threads)}", (i + 0.4) / len(types))
                room = left / (len(order) - i) - (written - started) - 2 * (ROUNDS + 1) * sum(turn)
                windows = int(room / (2 * WINDOW * turn[0] / prompt_tokens))
                pairs[name] = compare(reference, path, name, tokens[: max(windows, 1) * WINDOW])
            finally:
                path.unlink()
            # With a single window it would have taken so long.
            last = (written - started) + 2 * (ROUNDS + 1) * sum(turn) + 2 * WINDOW * turn[0] / prompt_tokens
        turns = [turn for pair in pairs.values() for turn in pair.reference_turns]
        own = reference.candidate(SOURCE, turns, 1.0, NO_LOSS)
    report("done", 1.0)
    found = (own, *(pairs[name].candidate for name in types if name in pairs))
    missed = lacking(before, look(), threads)
    return MeasuredTypes(found, tuple(name for name in types if name not in pairs), missed)


def _beside(before: Look, threads: int | None) -> str:
    """Return what to say where neighbours compute."""
    now = look()
    return " (the machine is busy)" if now.when - before.when > 1.0 and lacking(before, now, threads) >= BUSY else ""


def confirmed(
    source: Path, path: Path, candidate: Candidate, prompt_tokens: int, answer_tokens: int, threads: int | None = None
) -> bool:
    """Return whether a file is the faster one again: for what was chosen on a busy machine, where noise chooses too.

    Raises:
        ModelFileError: a file cannot be read.
    """
    with (
        Model(source) as base,
        Model(path) as model,
        TurnBench(base, prompt_tokens, answer_tokens, threads) as reference,
        reference.like(model) as bench,
    ):
        reference.turn()
        bench.turn()
        ratio = _ratio([(reference.turn(), bench.turn()) for _ in range(ROUNDS)])
    return ratio >= 1.0 + TIE and ratio >= candidate.turn_ratio / AGREE


def _ratio(turns: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> float:
    return statistics.median(sum(theirs) / sum(ours) for theirs, ours in turns)


def compare(reference: TurnBench, path: Path, name: str, tokens: Sequence[int], rounds: int = ROUNDS) -> TypePair:
    """Measure a file beside the source, in turn: quality on `tokens`, speed as the median of `rounds` ratios.

    Raises:
        ModelFileError: the file cannot be read.
    """
    with Model(path) as model, reference.like(model) as bench:
        quality = _quality(reference, bench, tokens)
        reference.turn()  # first touches of the weights and of the caches are not measured
        bench.turn()
        turns = [(reference.turn(), bench.turn()) for _ in range(rounds)]
        ratio = _ratio(turns)
        candidate = bench.candidate(name, [ours for _, ours in turns], ratio, quality)
    return TypePair(candidate, tuple(theirs for theirs, _ in turns))


def write(source: Path, target: Path, file_type: str, source_sha256: str) -> None:
    """Requantize `source` into `target`; the file carries its source's hash and its own type as metadata.

    Raises:
        ModelFileError: the source cannot be read or the target cannot be written; no target is left then.
    """
    try:
        quantize(source, target, file_type, {SOURCE_KEY: source_sha256, TYPE_KEY: file_type})
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those that no other beats in both speed and loss, fastest first."""
    front = [
        c
        for c in candidates
        if not any(
            o.turn_ratio >= c.turn_ratio and o.loss <= c.loss and (o.turn_ratio, o.loss) != (c.turn_ratio, c.loss)
            for o in candidates
        )
    ]
    return sorted(front, key=lambda c: -c.turn_ratio)


def choose(candidates: Sequence[Candidate], max_loss: float = MAX_LOSS) -> TypeChoice:
    """Return the fastest candidate within `max_loss`; within 5 % of its speed the smallest loss wins.

    Raises:
        ModelFileError: nothing was measured.
    """
    allowed = [c for c in candidates if c.loss <= max_loss]
    if not allowed:
        raise ModelFileError("nothing was measured, so nothing can be chosen")
    fastest = max(c.turn_ratio for c in allowed)
    tied = [c for c in allowed if c.turn_ratio >= fastest * (1.0 - TIE)]
    best = min(tied, key=lambda c: (c.loss, -c.turn_ratio))
    if best.type == SOURCE:
        return TypeChoice(best, f"no other type is more than {TIE:.0%} faster within a loss of {max_loss:g}")
    faster = [c for c in candidates if c.turn_ratio > best.turn_ratio and c.loss > max_loss]
    reason = (
        f"a turn is {best.turn_ratio:.2f}x as fast as with the source; perplexity {best.perplexity_ratio - 1:+.2%}, "
        f"divergence {best.kl:.4f} (allowed: {max_loss:g})"
    )
    if faster:
        quick = max(faster, key=lambda c: c.turn_ratio)
        reason += f"; {quick.type} is faster still ({quick.turn_ratio:.2f}x) but loses {quick.loss:.3f}"
    return TypeChoice(best, reason)


class TurnBench:
    """A model with a context for typical turns and for next-token distributions."""

    def __init__(self, model: Model, prompt_tokens: int, answer_tokens: int, threads: int | None = None) -> None:
        self._model, self._prompt, self._answer, self._threads = model, prompt_tokens, answer_tokens, threads
        size = max(prompt_tokens + answer_tokens, WINDOW)
        self.context = Context(
            model, n_ctx=size, n_batch=max(prompt_tokens, WINDOW), n_outputs_max=WINDOW, threads=threads
        )
        self.batch = Batch(self.context.n_batch)
        # Any tokens take the same time; spread over the vocabulary so that no cache flatters the embedding rows.
        self._tokens = [(7919 * i) % model.n_vocab for i in range(size)]

    def like(self, model: Model) -> TurnBench:
        """Return the same bench for another model."""
        return TurnBench(model, self._prompt, self._answer, self._threads)

    def candidate(
        self, name: str, turns: Sequence[tuple[float, float]], ratio: float, quality: tuple[float, float, float]
    ) -> Candidate:
        """Return the record of this model from its turns (seconds to read and to write)."""
        prefill = self._prompt / statistics.median(turn[0] for turn in turns)
        decode = self._answer / statistics.median(turn[1] for turn in turns)
        return Candidate(name, self._model.size_bytes, prefill, decode, ratio, *quality)

    def turn(self) -> tuple[float, float]:
        """Return seconds to read a prompt and to write an answer, as a typical turn does."""
        context, batch = self.context, self.batch
        context.clear()
        batch.clear()
        batch.add(self._tokens[: self._prompt], 0, 0, "last")
        start = time.perf_counter()
        context.decode(batch)
        middle = time.perf_counter()
        for i in range(self._answer):
            batch.clear()
            batch.add([self._tokens[i]], self._prompt + i, 0, "last")
            context.decode(batch)
        return middle - start, time.perf_counter() - middle

    def log_probabilities(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return ln p of every next token, shape (tokens, n_vocab)."""
        self.context.clear()
        self.batch.clear()
        rows = self.batch.add(tokens, 0, 0, "all")
        self.context.decode(self.batch)
        logits = np.stack([self.context.logits(row) for row in rows])
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def _quality(reference: TurnBench, bench: TurnBench, tokens: Sequence[int]) -> tuple[float, float, float]:
    """Return perplexity ratio, mean KL(reference || bench) and share of equal likeliest tokens."""
    rise, divergence, same, n = 0.0, 0.0, 0, 0
    for start in range(0, len(tokens) - 1, WINDOW):
        window = tokens[start : start + WINDOW]
        if len(window) < 2:
            break
        p, q = (side.log_probabilities(window)[:-1] for side in (reference, bench))
        target = np.asarray(window[1:])
        at = np.arange(len(target))
        rise += float((p[at, target] - q[at, target]).sum(dtype=np.float64))
        divergence += float((np.exp(p) * (p - q)).sum(dtype=np.float64))
        same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        n += len(target)
    if n == 0:
        raise ModelFileError("the text to compare quality on is too short")
    return math.exp(rise / n), max(divergence / n, 0.0), same / n
