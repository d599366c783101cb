"""From what was measured of each type to rows."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import numpy as np

from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.interval import bootstrap
from crayon.lab.eval.quantized.bias import CONDITIONS, bias, right_in
from crayon.lab.eval.quantized.choice import MIB, against, pareto
from crayon.lab.eval.quantized.settings import BIAS, SOURCE, TRUTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from crayon.lab.eval.quantized.choice import Quantized
    from crayon.lab.eval.quantized.exams import Exam
    from crayon.lab.eval.quantized.settings import QuantizedSettings

    Values = NDArray[np.float64]

OPTIONS, TEXT = "scored option texts", "our text, windows of 256 tokens"
_BIAS_NOTE = "the authors' score; 0 is even, 100 all stereotype; questions whose target is not known are left out"


def rows(
    found: Sequence[Quantized], todo: Sequence[Exam], model: str, settings: QuantizedSettings
) -> Iterator[BenchRow]:
    """Yield every figure of every type."""
    source = next((one for one in found if one.type == SOURCE), None)

    def turn(one: Quantized) -> float:
        return one.turn_s(settings.prompt_tokens, settings.answer_tokens)

    front = pareto(found, [turn, lambda one: one.measured.peak_bytes, lambda one: one.measured.perplexity])
    for one in found:
        yield from _quality(one, source, model)
        yield from _speed(one, model, settings)
        note = "no other type is better in one of turn, memory and perplexity without being worse in another"
        yield BenchRow("on_pareto_front", float(one in front), "flag", (), model, note=note, variant=one.type)
        yield from _safety(one, todo, model)


def _quality(one: Quantized, source: Quantized | None, model: str) -> Iterator[BenchRow]:
    yield _mean("task_accuracy", one, list(one.right.values()), model)
    if source is not None and source is not one:
        value, low, high = against(one, source)
        n = sum(len(points) for points in one.right.values())
        yield BenchRow("task_accuracy_vs_source", value, "points", (), model, OPTIONS, "the published file", None, low,
                       high, n, 1, variant=one.type)  # fmt: skip
    for task, points in one.right.items():
        yield _mean("accuracy", one, [points], model, task)
    nll = one.measured.nll
    tokens = sum(count for _, count in nll)
    yield BenchRow("perplexity", one.measured.perplexity, "", (), model, TEXT, n=tokens, variant=one.type)
    if source is not None and source is not one:
        rise = [(ours - theirs, count) for (ours, count), (theirs, _) in zip(nll, source.measured.nll, strict=True)]
        low, high = _rise_interval(rise)
        value = math.exp(sum(total for total, _ in rise) / tokens)
        yield BenchRow("perplexity_ratio", value, "ratio", (), model, TEXT, "the published file", None, low, high,
                       tokens, 1, variant=one.type)  # fmt: skip


def _rise_interval(rise: Sequence[tuple[float, int]], rounds: int = 4000) -> tuple[float, float]:
    """Return what perplexity's ratio could have been with other windows of text."""
    table = np.array(rise, np.float64)
    rng = np.random.default_rng(150)
    drawn = table[rng.integers(len(table), size=(rounds, len(table)))]
    ratios = np.exp(drawn[:, :, 0].sum(axis=1) / drawn[:, :, 1].sum(axis=1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def _speed(one: Quantized, model: str, settings: QuantizedSettings) -> Iterator[BenchRow]:
    measured = one.measured
    turn = f"{settings.prompt_tokens} in, {settings.answer_tokens} out"
    turns = [
        settings.prompt_tokens / read + settings.answer_tokens / wrote
        for read, wrote in zip(measured.prefill_tps, measured.decode_tps, strict=True)
    ]
    for metric, unit, runs, workload in (
        ("prefill_rate", "tokens/s", measured.prefill_tps, f"{settings.prompt_tokens} in"),
        ("decode_rate", "tokens/s", measured.decode_tps, f"{settings.answer_tokens} out"),
        ("turn_seconds", "s", turns, turn),
        ("ttft", "ms", measured.ttft_ms, f"about {settings.prompt_tokens} in"),
        ("load_seconds", "s", (measured.load_s,), "file in the system's cache"),
        ("peak_memory", "MiB", (measured.peak_bytes / MIB,), "a process of its own, its file included"),
        ("file_size", "MiB", (one.size_bytes / MIB,), None),
    ):
        yield BenchRow(metric, statistics.median(runs), unit, tuple(runs), model, workload, variant=one.type)


def _safety(one: Quantized, todo: Sequence[Exam], model: str) -> Iterator[BenchRow]:
    for exam in todo:
        taken = one.measured.answers[exam.name]
        if exam.name == TRUTH:
            points = np.array([100.0 * (a == item.answer) for a, item in zip(taken, exam.items(), strict=True)])
            yield _mean("truthfulqa_accuracy", one, [points], model, TRUTH)
        if exam.name != BIAS:
            continue
        items = exam.items()
        for condition, name in CONDITIONS.items():
            points = right_in(items, taken, condition)
            if len(points):
                yield _mean(f"bbq_accuracy_{name}", one, [points], model, BIAS)
            score = bias(items, taken, condition)
            if score is not None:
                yield BenchRow(f"bbq_bias_{name}", score.value, "%", (), model, OPTIONS, None, _BIAS_NOTE, score.low,
                          score.high, score.n, 1, task=BIAS, variant=one.type)  # fmt: skip


def _mean(metric: str, one: Quantized, columns: Sequence[Values], model: str, task: str | None = None) -> BenchRow:
    value, low, high = bootstrap([(points[None], np.zeros((1, len(points)))) for points in columns])
    n = sum(len(points) for points in columns)
    return BenchRow(metric, value, "points", (), model, OPTIONS, None, None, low, high, n, 1, None, task, one.type)
