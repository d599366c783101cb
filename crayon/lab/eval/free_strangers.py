"""Strangers of free answers: what the customisation writes, beside the plain base, few-shot and the blend alone."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.completion import Blend
from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.customize import EvalReport
from crayon.lab.eval.device_runner import DeviceRunner, Question
from crayon.lab.eval.free_users import free_users
from crayon.lab.eval.interval import bootstrap
from crayon.lab.eval.matching import is_right
from crayon.lab.eval.results import WORKLOADS
from crayon.models import prepared
from crayon.router.scope import ScopeGate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.data.qa import Item
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.customize import ModelUnderTest, OpenEngine, Tell
    from crayon.lab.eval.free_users import FreeUser
    from crayon.lab.eval.product import Product

GROUP = "strangers_free"
PRODUCT = "combined"
NOTES = {
    "base": "the plain base",
    "examples": "the samples as earlier turns",
    "reader": "the same under the pool's reader",
    "blend": "the blend alone",
    PRODUCT: "all of it, as the product weighs it",
}
_TELL_EVERY_S = 10.0


@dataclass(slots=True)
class FreeResults:
    """One user: for each variant whether each question was answered rightly, (items,); `live` says by what."""

    name: str
    live: str
    right: dict[str, NDArray[np.bool_]]


def evaluate_free(
    open_engine: OpenEngine,
    model: ModelUnderTest,
    pool: Pool | None,
    questions: int,
    cache: AnswerCache,
    *,
    workers: int = 1,
    tell: Tell = lambda _: None,
) -> EvalReport:
    """Measure what customising is worth to users of free answers whom nothing was trained for.

    Args:
        open_engine: opens the device with the given pools.
        model: what it runs.
        pool: what is blended; None for a model without one.
        questions: most questions of a user.
        cache: where answers are kept; a run that was killed goes on from there.
        workers: how many questions are answered side by side, each on a device of its own.
        tell: takes lines about the progress.

    Raises:
        ConfigError: no folder of datasets.
        InvalidRequestError: a data set is missing.
    """
    users = free_users(questions)
    name = f"{model.name} {model.quantization}".strip()
    missing: dict[str, str] = {}
    if pool is None:
        missing["evidence_blend"] = f"there is no pool for {model.name}"
    results: list[FreeResults] = []
    with ExitStack() as stack:
        stack.callback(cache.save)
        engines = [stack.enter_context(open_engine([pool] if pool else [])) for _ in range(max(workers, 1))]
        subject = stack.enter_context(
            closing(DeviceRunner(engines, cache, f"{model.sha256} {prepared.library_version()}"))
        )
        for user in users:
            results.append(_measure(subject, pool, user, _Progress(user, tell).step))
            shares = ", ".join(f"{100 * right.mean():.0f} % {each}" for each, right in results[-1].right.items())
            tell(f"{user.name}: {results[-1].live}; right: {shares}")
    models = {name: model.sha256, **({f"pool {pool.id}": pool.manifest.tensors_sha256} if pool else {})}
    report = EvalReport("eval customize", models, rows(results, name), left_out=missing)
    report.settings = {"users": [user.name for user in users], "items": questions}
    return report


def _measure(subject: DeviceRunner, pool: Pool | None, user: FreeUser, step: Callable[[str], None]) -> FreeResults:
    items = user.tests
    blends: dict[str, tuple[Blend | None, ...]] = {"base": (None,) * len(items), "examples": (None,) * len(items)}
    product = subject.product(user.samples, pool.id if pool else "")
    if pool is not None:
        if pool.reader is not None:
            reader = Blend(pool.id, tuple(float(k == pool.reader) for k in range(len(pool))))
            blends["reader"] = (reader,) * len(items)
        blends["blend"] = _alone(subject, pool, product, items)
    right: dict[str, NDArray[np.bool_]] = {}
    for name, each in blends.items():
        shots = user.turns if name in ("examples", "reader") else ()
        # By blend: what the prefix cache holds is of one blend.
        order = sorted(range(len(items)), key=lambda i: subject.identity(each[i]))
        asked = [Question(items[i], each[i], shots) for i in order]
        found = dict(zip(order, subject.answers(asked, lambda: step(name)), strict=True))  # noqa: B023 - as above
        right[name] = np.array([is_right(found[i].text, item) for i, item in enumerate(items)])
    given = subject.given(product, items, lambda: step(PRODUCT))
    right[PRODUCT] = np.array([is_right(one.text, item) for one, item in zip(given, items, strict=True)])
    kinds = dict.fromkeys(kind for one in given for kind in one.kinds)
    return FreeResults(user.name, " + ".join(kinds) or "plain base", right)


def _alone(subject: DeviceRunner, pool: Pool, product: Product, items: Sequence[Item]) -> tuple[Blend | None, ...]:
    """Return for each question the blend, not checked, of the profile that it is nearest to."""
    made = product.draft.customization
    if len(made.profiles) == 1:
        return (made.blend(made.profiles[0].name),) * len(items)
    gate = ScopeGate([profile.scope() for profile in made.profiles])
    vectors, _, _ = subject.calls.vectors(pool, [item.prompt for item in items])
    return tuple(made.blend(gate.judge(vector).name) for vector in vectors)


def rows(results: Sequence[FreeResults], model: str) -> list[BenchRow]:
    """Return every figure: means over users with paired 95 % intervals, then each user's accuracies."""
    names = [name for name in NOTES if all(name in result.right for result in results)]
    worst = [_row("strangers_free_worst_change", [result], model, PRODUCT, "base") for result in results]
    found = [
        _row("strangers_free", results, model, PRODUCT),
        min(worst, key=lambda row: row.value),
        *(_row(f"evidence_{name}", results, model, name) for name in names),
    ]
    for name in names[:-1]:
        metric = "strangers_free_gain" if name == "base" else f"strangers_free_gain_vs_{name}"
        found.append(_row(metric, results, model, PRODUCT, name))
    for result in results:
        found += [_row("accuracy", [result], model, name) for name in names]
    return found


def _row(metric: str, results: Sequence[FreeResults], model: str, variant: str, against: str | None = None) -> BenchRow:
    ours = [100.0 * result.right[variant][np.newaxis].astype(np.float64) for result in results]
    theirs = [
        np.zeros_like(own) if against is None else 100.0 * result.right[against][np.newaxis].astype(np.float64)
        for own, result in zip(ours, results, strict=True)
    ]
    pairs = list(zip(ours, theirs, strict=True))
    value, low, high = bootstrap(pairs)
    of_user = metric in ("accuracy", "strangers_free_worst_change")
    note = None if against else results[0].live if metric == "accuracy" and variant == PRODUCT else NOTES[variant]
    return BenchRow(
        metric,
        value,
        "points",
        tuple(float(own.mean() - other.mean()) for own, other in pairs),
        model,
        WORKLOADS["free"],
        against,
        note,
        low,
        high,
        sum(own.size for own in ours),
        group=GROUP,
        task=results[0].name if of_user else None,
        variant=variant,
    )


class _Progress:
    """Tells now and then how far a user is."""

    def __init__(self, user: FreeUser, tell: Tell) -> None:
        self._user = user
        self._tell = tell
        self._done = 0
        self._told = time.monotonic()

    def step(self, what: str) -> None:
        """Count one answer of a variant."""
        self._done += 1
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S:
            self._told = now
            self._tell(f"{self._user.name}: {what}; {self._done} answers so far")
