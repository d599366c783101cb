"""The whole measurement: users, their variants, every answer, and the figures of it all."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from crayon.errors import AdapterError, ModelError
from crayon.lab.bench.report import BenchReport
from crayon.lab.eval.baseline_pools import BaselinePools
from crayon.lab.eval.cases import make_cases, own_tasks
from crayon.lab.eval.device_runner import DeviceAnswer, DeviceRunner, Question
from crayon.lab.eval.results import CaseResults, VariantAnswers
from crayon.lab.eval.summary import rows
from crayon.lab.eval.variants import Others, Variants
from crayon.models import prepared

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.adapters.pool import Pool
    from crayon.device import DeviceEngine
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.cases import UserCase
    from crayon.lab.eval.product import Given
    from crayon.lab.eval.settings import EvalSettings
    from crayon.lab.eval.variants import Variant

Tell: TypeAlias = Callable[[str], None]
OpenEngine: TypeAlias = "Callable[[Sequence[Pool]], DeviceEngine]"
_TELL_EVERY_S = 10.0


@dataclass(slots=True)
class EvalReport(BenchReport):
    """A report that also says what was asked for, and which controls could not be had and why."""

    settings: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the one object that `--json` prints."""
        return {**BenchReport.as_json(self), "settings": self.settings, "missing": self.left_out}


@dataclass(frozen=True, slots=True)
class ModelUnderTest:
    """The file that runs: its name and type, and its hash."""

    name: str
    quantization: str
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str, quantization: str) -> ModelUnderTest:
        """Hash a model file.

        Raises:
            ModelError: it cannot be read.
        """
        try:
            with path.open("rb") as file:
                return cls(name, quantization, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error})") from None


def evaluate(
    open_engine: OpenEngine,
    model: ModelUnderTest,
    pool: Pool,
    settings: EvalSettings,
    cache: AnswerCache,
    *,
    all_data: Pool | None = None,
    workers: int = 1,
    tell: Tell = lambda _: None,
) -> EvalReport:
    """Measure what customising is worth with a pool.

    Args:
        open_engine: opens the device with the given pools.
        model: what it runs.
        pool: what is blended.
        settings: how much to measure.
        cache: where answers are kept; a run that was killed goes on from there.
        all_data: a pool of one member that was trained on all data; by default the pool's generalist.
        workers: how many questions are answered side by side, each on a device of its own.
        tell: takes lines about the progress.

    Raises:
        AdapterError: a pool does not fit, or has no keys.
        ConfigError: no folder of datasets.
        InvalidRequestError: a data set is missing.
    """
    if pool.manifest.encoder is None:
        raise AdapterError(f"pool {pool.id} has no keys, so samples cannot be compared with its members")
    cases = make_cases(pool.manifest, settings)
    missing: dict[str, str] = {}
    baseline_pools = BaselinePools(pool, settings, missing)
    others = Others(
        baseline_pools.all_data(all_data),
        baseline_pools.random_b(),
        baseline_pools.fresh(cases, cache, tell) if "fresh" in settings.controls else {},
    )
    for control, why in missing.items():
        tell(f"left out: {control} ({why})")
    name = f"{model.name} {model.quantization}".strip()
    with ExitStack() as stack:
        stack.callback(cache.save)
        engines = [stack.enter_context(open_engine(baseline_pools.pools)) for _ in range(max(workers, 1))]
        subject = stack.enter_context(
            closing(DeviceRunner(engines, cache, f"{model.sha256} {prepared.library_version()}"))
        )
        variants = Variants(subject, pool, own_tasks(pool.manifest), settings, others)
        progress = _Progress(cases, variants, tell)
        results = [_answer(case, variants, subject, progress) for case in cases]
    return EvalReport(
        "eval customize",
        {name: model.sha256, f"pool {pool.id}": pool.manifest.tensors_sha256},
        rows(results, name),
        settings=asdict(settings),
        left_out=missing,
    )


def _answer(case: UserCase, variants: Variants, subject: DeviceRunner, progress: _Progress) -> CaseResults:
    results = CaseResults(case)
    for name, draws in variants.plan(case):
        outcome = results.outcomes[name] = VariantAnswers()
        step = functools.partial(progress.step, case, name)
        for variant in variants.make(case, name, draws):
            _answer_items(case, variant, outcome, subject, step)
    return results


def _answer_items(
    case: UserCase, variant: Variant, outcome: VariantAnswers, subject: DeviceRunner, step: Callable[[], None]
) -> None:
    if variant.product is not None:
        given = subject.given(variant.product, case.items, step)
        base = subject.answers([Question(item) for item in case.items]) if any(one.plain for one in given) else []
        outcome.answers.append([base[i] if one.plain else _as_answer(one) for i, one in enumerate(given)])
        outcome.plain.append([one.plain for one in given])
        return
    # By blend: what the prefix cache holds is of one blend.
    order = sorted(range(len(case.items)), key=lambda i: subject.identity(variant.blends[i]))
    questions = [Question(case.items[i], variant.blends[i], variant.shots) for i in order]
    found = dict(zip(order, subject.answers(questions, step), strict=True))
    outcome.answers.append([found[i] for i in range(len(case.items))])
    outcome.plain.append([not variant.shots and not subject.identity(blend) for blend in variant.blends])


def _as_answer(given: Given) -> DeviceAnswer:
    """Return what was chosen as an answer that every way of comparing options reads alike."""
    return DeviceAnswer(given.text, given.logs, given.logs, (0.0,) * len(given.logs), given.too_long)


class _Progress:
    """Tells now and then how far it is and how long the rest will take."""

    def __init__(self, cases: Sequence[UserCase], variants: Variants, tell: Tell) -> None:
        self._tell = tell
        self._total = sum(len(case.items) * draws for case in cases for _, draws in variants.plan(case))
        self._done = 0
        self._started = self._told = time.monotonic()

    def step(self, case: UserCase, variant: str) -> None:
        """Count one answer."""
        self._done += 1
        now = time.monotonic()
        if now - self._told < _TELL_EVERY_S:
            return
        self._told = now
        left = (now - self._started) * (self._total - self._done) / self._done
        minutes = f"{left / 60:.0f} min" if left >= 60 else f"{left:.0f} s"
        self._tell(
            f"{case.group} {case.name}: {variant}; {self._done:,} of {self._total:,} answers, about {minutes} left"
        )
