"""From strangers' answers to rows: what each kind of evidence gets right, and what the product gains over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.interval import ROUNDS, bootstrap
from crayon.lab.eval.results import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from crayon.lab.eval.strangers import StrangerResults

GROUP = "strangers"
PRODUCT = "combined"
SCORED, ASKED = WORKLOADS["scored"], "exact answers of ask"
NOTES = {
    "base": "the plain base",
    "examples": "the samples as earlier turns, by log-probability alone",
    "class_mean": "the nearest class mean of the samples' embeddings",
    "answers": "the classifier of the samples' embeddings alone",
    "blend": "the blend alone",
    PRODUCT: "all of it, as the product weighs it",
    "server": "the larger model with the options listed, without samples",
}
_SEED = 150


def rows(results: Sequence[StrangerResults], model: str) -> list[BenchRow]:
    """Return every figure: means over users with paired 95 % intervals, then each user's accuracies."""
    variants = [name for name in NOTES if all(name in result.right for result in results)]
    found = [
        _mean("strangers_choose", results, model, PRODUCT),
        _mean("strangers_ask", results, model, "ask"),
        _worst(results, model),
        *(_mean(name if name == "server" else f"evidence_{name}", results, model, name) for name in variants),
        *(_gain(results, model, name) for name in variants if name != PRODUCT),
    ]
    for name, variant in (("margin", PRODUCT), ("base_margin", "base"), ("examples_margin", "examples")):
        found += _auroc(f"{name}_auroc", [_right_or_wrong(result, variant) for result in results], model, variant)
    for name, variant in (("foreign_margin", PRODUCT), ("base_foreign_margin", "base")):
        pairs = [_own_or_foreign(result, variant) for result in results if variant in result.foreign]
        found += _auroc(f"{name}_auroc", pairs, model, variant)
    for result in results:
        found += [_mean("accuracy", [result], model, name) for name in (*variants, "ask")]
    return found


def _points(result: StrangerResults, variant: str) -> NDArray[np.float64]:
    """Return 100 or 0 of each question, (1, items)."""
    right = result.asked if variant == "ask" else result.right[variant]
    return 100.0 * right[np.newaxis].astype(np.float64)


def _mean(metric: str, results: Sequence[StrangerResults], model: str, variant: str) -> BenchRow:
    points = [_points(result, variant) for result in results]
    value, low, high = bootstrap([(each, np.zeros_like(each)) for each in points])
    single = metric == "accuracy"
    return BenchRow(
        metric,
        value,
        "points",
        tuple(float(each.mean()) for each in points),
        model,
        ASKED if variant == "ask" else SCORED,
        note=results[0].live if single and variant == PRODUCT else NOTES.get(variant),
        ci_low=low,
        ci_high=high,
        n=sum(each.size for each in points),
        group=GROUP,
        task=results[0].name if single else None,
        variant=PRODUCT if variant == "ask" else variant,
    )


def _gain(
    results: Sequence[StrangerResults], model: str, other: str, metric: str = "", task: str | None = None
) -> BenchRow:
    pairs = [(_points(result, PRODUCT), _points(result, other)) for result in results]
    value, low, high = bootstrap(pairs)
    return BenchRow(
        metric or ("strangers_gain" if other == "base" else f"strangers_gain_vs_{other}"),
        value,
        "points",
        tuple(float(ours.mean() - theirs.mean()) for ours, theirs in pairs),
        model,
        SCORED,
        other,
        None,
        low,
        high,
        sum(ours.size for ours, _ in pairs),
        group=GROUP,
        task=task,
        variant=PRODUCT,
    )


def _worst(results: Sequence[StrangerResults], model: str) -> BenchRow:
    changes = [_gain([result], model, "base", "strangers_worst_change", result.name) for result in results]
    return min(changes, key=lambda row: row.value)


def _right_or_wrong(result: StrangerResults, variant: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return result.right[variant], result.margin[variant]


def _own_or_foreign(result: StrangerResults, variant: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    own, foreign = result.margin[variant], result.foreign[variant]
    return np.arange(len(own) + len(foreign)) < len(own), np.concatenate([own, foreign])


def _auroc(
    metric: str,
    users: Sequence[tuple[NDArray[np.bool_], NDArray[np.float64]]],
    model: str,
    variant: str,
) -> Iterator[BenchRow]:
    """Yield how well the margin tells two kinds of one user's answers apart, over all pairs of one of each.

    Args:
        metric: what to call it.
        users: of each, which answers should have the larger margin, (n,), and the margins, (n,).
        model: which one, and
        variant: of what.
    """
    rng = np.random.default_rng(_SEED)
    above, pairs = np.zeros(ROUNDS + 1), np.zeros(ROUNDS + 1)
    each: list[float] = []
    for right, margin in users:
        if right.all() or not right.any():
            continue
        count = len(right)
        # The first row has each question once.
        times = np.concatenate([np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), size=ROUNDS)])
        higher = margin[right][:, np.newaxis] - margin[~right]
        order = (higher > 0) + 0.5 * (higher == 0)
        above += np.einsum("ri,ij,rj->r", times[:, right], order, times[:, ~right], optimize=True)
        pairs += times[:, right].sum(axis=1) * times[:, ~right].sum(axis=1)
        each.append(float(order.mean()))
    if not each:
        return
    values = above[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(values[1:], [0.025, 0.975])
    pair = "answers to own questions against foreign ones" if "foreign" in metric else "right against wrong answers"
    note = f"area under the ROC curve of the margin, {pair} of the same user"
    yield BenchRow(
        metric,
        float(values[0]),
        "auroc",
        tuple(each),
        model,
        SCORED,
        None,
        note,
        float(low),
        float(high),
        sum(len(right) for right, _ in users),
        group=GROUP,
        variant=variant,
    )
