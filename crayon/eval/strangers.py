"""Users whose tasks no pool has seen, measured as they would meet the product: customise, then choose and ask."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from crayon.bench.report import Row
from crayon.completion import Blend
from crayon.customising.choices import choice_values
from crayon.customising.classifier import Classifier
from crayon.customising.customise import customise
from crayon.customising.device_calls import DeviceCalls
from crayon.customising.sample import MAX_CHOICES, as_samples
from crayon.customising.support import normalised, turns_of
from crayon.data.qa import DEFAULT_FOLDER
from crayon.engine import ScoreRequest, deadline_after
from crayon.errors import ConfigError, InvalidRequestError
from crayon.eval.customize import EvalReport
from crayon.eval.interval import bootstrap
from crayon.messages import Message
from crayon.models import prepared
from crayon.router.metrics import auroc
from crayon.sdk import Crayon
from crayon.sdk.listing import listed
from crayon.text_form import same_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.customising.customise import Draft
    from crayon.customising.sample import Sample
    from crayon.device import DeviceEngine
    from crayon.eval.answer_cache import AnswerCache
    from crayon.eval.customize import ModelUnderTest

    Tell: TypeAlias = Callable[[str], None]

NAME = "stranger"
ITEMS, QUICK_ITEMS = 40, 12
MAX_FILE_BYTES = 4 * 2**20
PATIENCE_S = 600.0
# What answers, in the order of the table; the last is the product.
VARIANTS = ("base", "blend", "examples", "class_mean", "answers", "combined", "ask")


@dataclass(frozen=True, slots=True)
class Stranger:
    """One user: labels in their order, samples, and (question, answer) pairs to be asked."""

    name: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    tests: tuple[tuple[str, str], ...]


def stranger_files(given: Sequence[Path]) -> list[Path]:
    """Return the files of users: those that are named, else those in the folder of datasets.

    Raises:
        ConfigError: none is named, and there are none.
    """
    if given:
        return list(given)
    folder = Path(os.environ.get("CRAYON_DATA") or DEFAULT_FOLDER) / "strangers"
    found = sorted(folder.glob("*.json"))
    if not found:
        raise ConfigError("CRAYON_DATA", f"{folder} holds no users; name their files with --strangers FILE")
    return found


def read_stranger(path: Path) -> Stranger:
    """Return the user of a JSON file with user, labels, samples and tests.

    Raises:
        InvalidRequestError: the file cannot be read, is too large, or a field is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        record = json.loads(data.decode("utf-8")) if len(data) <= MAX_FILE_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequestError("--strangers", f"{path} cannot be read: {error}") from None
    if not isinstance(record, dict) or not {"labels", "samples", "tests"} <= record.keys():
        raise InvalidRequestError("--strangers", f"{path} needs user, labels, samples and tests, in at most 4 MiB")
    samples = as_samples(record["samples"])
    tests = [(sample.question, sample.answer) for sample in as_samples(record["tests"])]
    labels = record["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise InvalidRequestError("--strangers", f"{path}: labels must be a list of texts")
    if not 2 <= len(labels) <= MAX_CHOICES:
        raise InvalidRequestError("--strangers", f"{path}: labels must be 2 to {MAX_CHOICES}")
    if any(answer not in labels for _, answer in tests) or any(sample.answer is None for sample in samples):
        raise InvalidRequestError(
            "--strangers", f"{path}: each sample needs an answer, and each test one of the labels"
        )
    return Stranger(str(record.get("user") or path.stem), tuple(labels), samples, tuple((q, a or "") for q, a in tests))


@dataclass(frozen=True, slots=True)
class Told:
    """What one user came to: for each variant its answers, in the tests' order, and margins where there are some."""

    user: Stranger
    answers: dict[str, list[str]]
    margins: dict[str, list[float]]
    kinds: str

    def right(self, variant: str) -> NDArray[np.float64]:
        """Return 100 for each right answer of a variant and 0 for each wrong one, shape (1, tests)."""
        pairs = zip(self.answers[variant], self.user.tests, strict=False)
        return np.array([[100.0 * (same_key(said) == same_key(wanted)) for said, (_, wanted) in pairs]])


def evaluate_strangers(
    engine: DeviceEngine,
    model: ModelUnderTest,
    users: Sequence[Stranger],
    cache: AnswerCache,
    *,
    server: DeviceEngine | None = None,
    items: int = ITEMS,
    tell: Tell = lambda _: None,
) -> EvalReport:
    """Measure what customising gives users whose tasks no pool has seen.

    Args:
        engine: the device.
        model: what it runs.
        users: whom to measure.
        cache: where answers are kept; a run that was killed goes on from there.
        server: a larger model that is asked with the options listed, without samples.
        items: at most so many questions of each user.
        tell: takes lines about the progress.
    """
    told = []
    for user in users:
        told.append(_Asking(engine, model, user, cache, server, items).told())
        figures = ", ".join(f"{name} {told[-1].right(name).mean():.0f}" for name in told[-1].answers)
        tell(f"{user.name}, {len(user.labels)} answers, {told[-1].kinds or 'base kept'}: {figures}")
    name = f"{model.name} {model.quantization}".strip()
    return EvalReport(
        "eval customize",
        {name: model.sha256, **{f"pool {pool.id}": pool.manifest.tensors_sha256 for pool in engine.pools}},
        _rows(told, name),
        settings={"users": "strangers", "items": items, "names": [user.name for user in users]},
    )


class _Asking:
    """One user on one device; each answer is computed once."""

    def __init__(
        self,
        engine: DeviceEngine,
        model: ModelUnderTest,
        user: Stranger,
        cache: AnswerCache,
        server: DeviceEngine | None,
        items: int,
    ) -> None:
        self._engine, self._user, self._cache, self._server = engine, user, cache, server
        self._tests = user.tests[:items]
        self._calls = DeviceCalls(engine, patience=PATIENCE_S)
        samples = [asdict(sample) for sample in user.samples]
        self._key = [model.sha256, prepared.library_version(), samples, list(user.labels)]

    def told(self) -> Told:
        with tempfile.TemporaryDirectory(prefix="crayon-eval-") as folder:
            client = Crayon(self._engine, customizations_dir=folder, timeout=PATIENCE_S, hardness=False)
            found = client.customize(NAME, self._user.samples)
            profiles = [asdict(profile) for profile in found.profiles]
            product = hashlib.sha256(json.dumps([profiles, found.space, found.material]).encode()).hexdigest()
            draft = customise(self._calls, NAME, self._user.samples)
            answers: dict[str, list[str]] = {name: [] for name in VARIANTS}
            margins: dict[str, list[float]] = {"base": [], "examples": [], "combined": []}
            blend = self._blend(draft)
            if blend is None:
                del answers["blend"]
            if self._server is not None:
                answers["server"] = []
            ways: dict[str, tuple[Any, Callable[[str], tuple[str, float]]]] = {
                "base": ("", functools.partial(self._choose, client, "base")),
                "examples": ("", self._examples),
                "combined": (product, functools.partial(self._choose, client, NAME)),
                "ask": (product, functools.partial(_ask, client)),
            }
            if blend is not None:
                ways["blend"] = ([blend.pool_id, blend.weights], functools.partial(self._choose, client, blend))
            if self._server is not None:
                ways["server"] = (self._server.models()[0].source_sha256, self._listed)
            by_classes = self._classes(draft)
            for question, _ in self._tests:
                for name, (more, way) in ways.items():
                    text, margin = self._kept(name, more, question, way)
                    answers[name].append(text)
                    if name in margins:
                        margins[name].append(margin)
            answers |= by_classes
        kinds = sorted({kind for profile in found.profiles for kind in profile.evidence.kinds})
        if any(profile.fits for profile in found.profiles):
            kinds.append("blend")
        return Told(self._user, answers, margins, " + ".join(kinds))

    def _kept(
        self, name: str, more: object, question: str, way: Callable[[str], tuple[str, float]]
    ) -> tuple[str, float]:
        key = self._cache.key("stranger-1", name, self._key, more, question)
        data = self._cache.get(key)
        if data is None:
            data = json.dumps(way(question)).encode()
            self._cache.put(key, data)
        text, margin = json.loads(data)
        return str(text), float(margin)

    def _choose(self, client: Crayon, blend: str | Blend, question: str) -> tuple[str, float]:
        chosen = client.choose(question, self._user.labels, blend=blend)
        return chosen.text, chosen.margin

    def _examples(self, question: str) -> tuple[str, float]:
        messages = (*turns_of(self._user.samples), Message("user", question))
        scores = self._calls.score(messages, self._user.labels, None, ended=True).scores
        return self._likeliest(choice_values(scores, "whole"))

    def _listed(self, question: str) -> tuple[str, float]:
        if self._server is None:
            return "", 0.0
        messages = (Message("user", listed(question, self._user.labels)),)
        request = ScoreRequest(messages=messages, continuations=self._user.labels, deadline=deadline_after(PATIENCE_S))
        return self._likeliest(np.array([score.total for score in self._server.score(request).result().scores]))

    def _likeliest(self, values: NDArray[np.float64]) -> tuple[str, float]:
        shares = np.sort(np.exp(normalised(values)))
        return self._user.labels[int(values.argmax())], float(shares[-1] - shares[-2])

    def _classes(self, draft: Draft) -> dict[str, list[str]]:
        """Return what the embedding alone answers: by the nearest class mean, and by the classifier."""
        vectors, _, _ = self._calls.vectors(draft.pool, [question for question, _ in self._tests])
        labels = [self._place(sample.answer or "") for sample in draft.samples]
        means = np.zeros((len(self._user.labels), vectors.shape[1]))
        for label in set(labels):
            mean = draft.vectors[[i for i, own in enumerate(labels) if own == label]].mean(axis=0)
            means[label] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        values = Classifier(draft.vectors, labels, len(self._user.labels)).values(vectors)
        ways = {"class_mean": vectors @ means.T, "answers": values}
        return {name: [self._user.labels[int(row.argmax())] for row in found] for name, found in ways.items()}

    def _place(self, answer: str) -> int:
        return next(i for i, label in enumerate(self._user.labels) if same_key(label) == same_key(answer))

    @staticmethod
    def _blend(draft: Draft) -> Blend | None:
        weights = draft.customization.profiles[0].weights
        return Blend(draft.customization.pool_id, weights) if any(weights) else None


def _ask(client: Crayon, question: str) -> tuple[str, float]:
    done = client.ask(question, blend=NAME, temperature=0.0, max_tokens=24)
    return done.text, done.probability or 0.0


def _rows(told: Sequence[Told], model: str) -> list[Row]:
    """Return the figures over all users; intervals are paired, items of each user drawn again."""
    n = sum(one.right("base").size for one in told)

    def row(metric: str, unit: str, runs: Sequence[float], figures: tuple[float, float, float], **more: Any) -> Row:
        value, low, high = figures
        return Row(metric, value, unit, tuple(runs), model, "strangers", ci_low=low, ci_high=high, n=n, **more)

    def mean(variant: str) -> tuple[list[float], tuple[float, float, float]]:
        having = [one for one in told if variant in one.answers]
        pairs = [(one.right(variant), np.zeros_like(one.right(variant))) for one in having]
        return [float(one.right(variant).mean()) for one in having], bootstrap(pairs)

    found = [
        row("strangers_choose", "%", *mean("combined")),
        row("strangers_ask", "%", *mean("ask")),
    ]
    changes = [float((one.right("combined") - one.right("base")).mean()) for one in told]
    worst = told[int(np.argmin(changes))]
    figures = bootstrap([(worst.right("combined"), worst.right("base"))])
    found.append(row("strangers_worst_change", "points", changes, figures, against="base", note=worst.user.name))
    for variant in (*VARIANTS[:-1], "server"):
        if any(variant in one.answers for one in told):
            name = variant if variant == "server" else f"evidence_{variant}"
            found.append(row(name, "%", *mean(variant), variant=variant))
    for variant, name in (
        ("combined", "margin_auroc"),
        ("base", "base_margin_auroc"),
        ("examples", "examples_margin_auroc"),
    ):
        values = [auroc(one.right(variant)[0] / 100.0, one.margins[variant]) for one in told]
        known = [value for value in values if value is not None]
        if known:
            middle = float(np.mean(known))
            found.append(row(name, "AUROC", known, (middle, min(known), max(known)), note="lowest and highest user"))
    found += [
        Row(
            "accuracy",
            float(one.right(variant).mean()),
            "%",
            (),
            model,
            "strangers",
            group="strangers",
            task=one.user.name,
            variant=variant,
            n=one.right(variant).size,
        )
        for one in told
        for variant in one.answers
    ]
    return found
