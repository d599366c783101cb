"""From points to rows: accuracies, and what the blend gains over everything it stands beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.interval import bootstrap
from crayon.lab.eval.results import METRICS, SCORING_NOTE, WORKLOADS
from crayon.lab.eval.variants import BLEND, COMBINED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crayon.lab.eval.results import CaseResults, Metric, Points

    Pair = tuple[Points, Points]

_GAP_NOTE = "points that the blend is below perfect choice, each question answered by its own member"


def rows(results: Sequence[CaseResults], model: str) -> list[BenchRow]:
    """Return every figure: first what was promised, then each accuracy."""
    found: list[BenchRow] = []
    groups = list(dict.fromkeys(result.case.group for result in results))
    for group in groups:
        own = [result for result in results if result.case.group == group]
        for metric in METRICS:
            found += _far(own, metric, model) if group == "far" else _gains(group, own, metric, model)
    for result in results:
        for metric in METRICS:
            if result.case.group != "far":
                found += _row("gain_of_user", [result], BLEND, "base", metric, model, task=result.case.name)
            found += _accuracies(result, metric, model)
    return found


def _gains(group: str, results: Sequence[CaseResults], metric: Metric, model: str) -> Iterator[BenchRow]:
    if group == "in_pool":
        yield from _row("in_pool_fraction_of_own", results, BLEND, "own", metric, model, statistic="ratio")
    names = list(dict.fromkeys(name for result in results for name in result.outcomes))
    for other in names:
        if other == BLEND:
            continue
        if other == COMBINED:
            yield from _combined(group, results, metric, model)
            continue
        if other.startswith(BLEND):
            # Another number of samples: a point of the curve.
            note = f"with {other.partition('@')[2]} samples"
            yield from _row(f"{group}_gain", results, other, "base", metric, model, note=note)
        elif group == "mixed" and other == "own":
            yield from _row("mixed_gap_to_perfect", results, "own", BLEND, metric, model, note=_GAP_NOTE)
        else:
            name = f"{group}_gain" if other == "base" else f"{group}_gain_vs_{other}"
            yield from _row(name, results, BLEND, other, metric, model)
    if group == "in_pool":
        for dataset in dict.fromkeys(result.case.tasks[0].dataset for result in results):
            own = [result for result in results if result.case.tasks[0].dataset == dataset]
            yield from _row("in_pool_gain_of_dataset", own, BLEND, "base", metric, model, task=dataset or "several")


def _combined(group: str, results: Sequence[CaseResults], metric: Metric, model: str) -> Iterator[BenchRow]:
    """Yield what the customisation as its user gets it is worth."""
    if group == "in_pool":
        yield from _row("in_pool_combined_fraction_of_own", results, COMBINED, "own", metric, model, statistic="ratio")
    yield from _row(f"{group}_combined_gain", results, COMBINED, "base", metric, model)
    for other in (BLEND, "all_data", "fewshot"):
        yield from _row(f"{group}_combined_gain_vs_{other}", results, COMBINED, other, metric, model)


def _far(results: Sequence[CaseResults], metric: Metric, model: str) -> Iterator[BenchRow]:
    for name, ours in (("far", BLEND), ("far_combined", COMBINED)):
        yield from _changes(name, results, ours, metric, model)


def _changes(name: str, results: Sequence[CaseResults], ours: str, metric: Metric, model: str) -> list[BenchRow]:
    changes = [
        row
        for result in results
        for row in _row(f"{name}_change", [result], ours, "base", metric, model, task=result.case.name)
    ]
    worst = min(changes, key=lambda row: row.value, default=None)
    if worst is None:
        return []
    first = BenchRow(
        f"{name}_worst_change", worst.value, worst.unit, worst.runs, worst.model, worst.workload, worst.against,
        worst.note, worst.ci_low, worst.ci_high, worst.n, worst.draws, worst.group, worst.task, worst.variant,
    )  # fmt: skip
    return [first, *changes]


def _row(
    name: str,
    results: Sequence[CaseResults],
    ours: str,
    theirs: str,
    metric: Metric,
    model: str,
    *,
    statistic: Literal["difference", "ratio"] = "difference",
    task: str | None = None,
    note: str | None = None,
) -> Iterator[BenchRow]:
    """Yield the one row that compares two variants over all users that have both, if there are any."""
    pairs: list[Pair] = []
    for result in results:
        first, second = result.points(ours, metric), result.points(theirs, metric)
        if first is not None and second is not None:
            pairs.append(_same_draws(first, second))
    value, low, high = bootstrap(pairs, statistic)
    if not np.isfinite([value, low, high]).all():
        return
    yield BenchRow(
        name,
        value,
        "points" if statistic == "difference" else "ratio",
        _by_draw(pairs, statistic),
        model,
        WORKLOADS[metric],
        theirs,
        note or (SCORING_NOTE if metric == "scored" else None),
        low,
        high,
        sum(first.shape[1] for first, _ in pairs),
        max(max(len(first), len(second)) for first, second in pairs),
        results[0].case.group,
        task,
        ours,
    )


def _accuracies(result: CaseResults, metric: Metric, model: str) -> Iterator[BenchRow]:
    for variant in result.outcomes:
        points = result.points(variant, metric)
        if points is None:
            continue
        value, low, high = bootstrap([(points, np.zeros_like(points))])
        yield BenchRow(
            "accuracy",
            value,
            "points",
            tuple(float(mean) for mean in points.mean(axis=1)),
            model,
            WORKLOADS[metric],
            None,
            None,
            low,
            high,
            points.shape[1],
            len(points),
            result.case.group,
            result.case.name,
            variant,
        )


def _same_draws(first: Points, second: Points) -> Pair:
    """Return both with the draws that both have; one that is the same in every draw stands for all."""
    if len(first) == 1 or len(second) == 1:
        return first, second
    draws = min(len(first), len(second))
    return first[:draws], second[:draws]


def _by_draw(pairs: Sequence[Pair], statistic: Literal["difference", "ratio"]) -> tuple[float, ...]:
    """Return the figure of each draw alone."""
    draws = min(max(len(first), len(second)) for first, second in pairs)
    found = []
    for draw in range(draws):
        ours = np.mean([first[min(draw, len(first) - 1)].mean() for first, _ in pairs])
        theirs = np.mean([second[min(draw, len(second) - 1)].mean() for _, second in pairs])
        if statistic == "difference" or theirs:
            found.append(float(ours - theirs if statistic == "difference" else ours / theirs))
    return tuple(found)
