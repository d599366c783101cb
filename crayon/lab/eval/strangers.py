"""Strangers to the pool: each customises through the SDK as any user does, and asks; beside it, each kind of evidence.

A user's answers come from `customize`, `choose` and `ask` of a client on the device.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon import Crayon, Message
from crayon.customising.classifier import Classifier
from crayon.customising.customise import customise
from crayon.customising.customization import SCHEMA
from crayon.customising.device_calls import DeviceCalls, some_pool
from crayon.customising.examples import CONTEXT_SHARE, choose_examples
from crayon.customising.sample import as_samples
from crayon.customising.support import turns_of
from crayon.errors import InvalidRequestError
from crayon.lab.eval.customize import EvalReport
from crayon.lab.eval.routing.sides import ServerSide
from crayon.lab.eval.stranger_rows import rows
from crayon.models import prepared
from crayon.text_form import same_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.customising.customization import Customization
    from crayon.device import DeviceEngine
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.customize import ModelUnderTest, OpenEngine, Tell
    from crayon.lab.eval.stranger_users import Stranger
    from crayon.sdk.call.options import BlendLike

ITEMS, QUICK_ITEMS = 40, 12
# Of each other user's questions, so many are asked of a customisation that they do not belong to.
FOREIGN = 4
# Of an answer that is written.
MAX_TOKENS = 24
PATIENCE_S = 600.0
_TELL_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerSettings:
    """How much to measure.

    Args:
        items: most questions of a user, the first of the file.

    Raises:
        InvalidRequestError: fewer than 2.
    """

    items: int = ITEMS

    def __post_init__(self) -> None:
        if self.items < 2:
            raise InvalidRequestError("--items", "must be at least 2")


@dataclass(slots=True)
class StrangerResults:
    """What came out for one user.

    Args:
        name: of the user.
        live: what the customisation answers with, in words.
        right: for each variant, whether each question was answered rightly, (items,), and
        margin: the lead of the answer, where the variant has one, (items,).
        asked: whether `ask` wrote exactly the answer, (items,).
        foreign: for the plain base and the product, the margin of each question of other users, (foreign,).
    """

    name: str
    live: str = ""
    right: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    margin: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    asked: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    foreign: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def evaluate_strangers(
    open_engine: OpenEngine,
    model: ModelUnderTest,
    pool: Pool | None,
    users: Sequence[Stranger],
    settings: StrangerSettings,
    cache: AnswerCache,
    *,
    open_server: Callable[[], DeviceEngine] | None = None,
    tell: Tell = lambda _: None,
) -> EvalReport:
    """Measure what customising is worth to users whom nothing was trained for.

    Args:
        open_engine: opens the device with the given pools.
        model: what it runs.
        pool: what is blended; None for a model without one.
        users: who customises.
        settings: how much to measure.
        cache: where answers are kept; a run that was killed goes on from there.
        open_server: opens the larger model in this process, once the device is closed; None leaves it out.
        tell: takes lines about the progress.

    Raises:
        AdapterError: the pool does not fit.
    """
    name = f"{model.name} {model.quantization}".strip()
    models = {name: model.sha256}
    missing: dict[str, str] = {}
    if pool is None:
        missing["evidence_blend"] = f"there is no pool for {model.name}"
    else:
        models[f"pool {pool.id}"] = pool.manifest.tensors_sha256
    results: list[StrangerResults] = []
    items = [user.tests[: settings.items] for user in users]
    with ExitStack() as stack:
        stack.callback(cache.save)
        engine = stack.enter_context(open_engine([pool] if pool else []))
        key = f"{model.sha256} {prepared.library_version()} {pool.manifest.tensors_sha256 if pool else ''}"
        progress = _Progress(sum(map(len, items)), tell)
        for user in users:
            # A check computed anew may differ in its last digits, and with it what is asked: what was made stays.
            folder = cache.folder / "strangers" / cache.key(SCHEMA, key, user.samples)[:16]
            client = stack.enter_context(Crayon(engine, hardness=False, customizations_dir=folder, timeout=PATIENCE_S))
            foreign = [item.question for other in users if other is not user for item in other.tests[:FOREIGN]]
            results.append(_User(user, settings, engine, client, _Kept(cache, key), progress).measure(foreign))
    if open_server is None:
        missing["server"] = "none was named with --server-model"
    else:
        with open_server() as server:
            served = server.models()[0]
            models[served.name] = served.source_sha256
            tell(f"asking {served.name}, options listed")
            side = ServerSide(server, cache, f"{served.source_sha256 or served.name} {served.quantization}")
            for result, asked in zip(results, items, strict=True):
                said = side.ask(asked, lambda: None)
                result.right["server"] = np.array([one.right for one in said])
        cache.save()
    report = EvalReport("eval customize", models, rows(results, name), left_out=missing)
    report.settings = {"users": [user.name for user in users], **asdict(settings)}
    return report


class _Kept:
    """What was answered before, by all that it depends on."""

    def __init__(self, cache: AnswerCache, model_key: str) -> None:
        self._cache = cache
        self._key = model_key

    def take(self, compute: Callable[[], Any], *parts: Any) -> Any:
        """Return what `compute` returns, or returned for these parts: anything that JSON can say."""
        key = self._cache.key("stranger-1", self._key, *parts)
        value = self._cache.get(key)
        if value is None:
            value = json.dumps(compute()).encode()
            self._cache.put(key, value)
        return json.loads(value)


class _User:
    """Measures one user."""

    def __init__(
        self,
        user: Stranger,
        settings: StrangerSettings,
        engine: DeviceEngine,
        client: Crayon,
        kept: _Kept,
        progress: _Progress,
    ) -> None:
        self._user = user
        self._items = user.tests[: settings.items]
        self._engine = engine
        self._client = client
        self._kept = kept
        self._progress = progress
        self._calls = DeviceCalls(engine, patience=PATIENCE_S)
        self._samples = as_samples(user.samples)

    def measure(self, foreign: Sequence[str]) -> StrangerResults:
        """Return what each kind of evidence answers, and all of them as the product weighs them.

        `foreign`: questions of other users.
        """
        result = StrangerResults(self._user.name)
        self._progress.what = f"{self._user.name}: plain"
        self._choose(result, "base", "base", [])
        turns = self._examples()
        self._progress.what = f"{self._user.name}: examples"
        self._choose(result, "examples", "base", [[turn.role, turn.content] for turn in turns], turns)
        self._by_embedding(result)
        if some_pool(self._engine) is not None:
            self._progress.what = f"{self._user.name}: blend"
            draft = customise(self._calls, "stranger", self._samples).customization
            self._choose(result, "blend", draft, [profile.weights for profile in draft.profiles])
        self._progress.what = f"{self._user.name}: customised"
        kept = {one.name: one for one in self._client.customizations()}
        made = kept.get("stranger") or self._client.customize("stranger", list(self._user.samples))
        identity = [
            made.space,
            list(self._user.samples),
            [[profile.weights, asdict(profile.evidence)] for profile in made.profiles],
        ]
        self._choose(result, "combined", "stranger", identity)
        if foreign:
            result.foreign["base"] = self._margins(foreign, "base", "base", [])
            result.foreign["combined"] = self._margins(foreign, "combined", "stranger", identity)
        result.live = live(made)
        result.asked = np.array([self._ask(item.question, identity) == item.answer_text for item in self._items])
        self._progress.user_done(result, len(self._items))
        return result

    def _choose(
        self,
        result: StrangerResults,
        variant: str,
        blend: BlendLike,
        identity: list[Any],
        turns: tuple[Message, ...] = (),
    ) -> None:
        right, margins = [], []
        for item in self._items:
            index, margin = self._chosen(item.question, variant, blend, identity, turns)
            right.append(index == item.answer)
            margins.append(margin)
        result.right[variant], result.margin[variant] = np.array(right), np.array(margins)

    def _margins(
        self, questions: Sequence[str], variant: str, blend: BlendLike, identity: list[Any]
    ) -> NDArray[np.float64]:
        """Return the lead of the answer to each question, (questions,)."""
        return np.array([self._chosen(question, variant, blend, identity)[1] for question in questions])

    def _chosen(
        self, question: str, variant: str, blend: BlendLike, identity: list[Any], turns: tuple[Message, ...] = ()
    ) -> tuple[int, float]:
        """Return which label is chosen, and its lead."""
        labels = self._user.labels

        def compute() -> tuple[int, float]:
            chosen = self._client.choose((*turns, Message("user", question)), labels, blend=blend)
            return chosen.index, chosen.margin

        index, margin = self._kept.take(compute, variant, identity, question, labels)
        self._progress.step()
        return index, margin

    def _ask(self, question: str, identity: list[Any]) -> str:
        def compute() -> str:
            done = self._client.ask(question, blend="stranger", temperature=0.0, max_tokens=MAX_TOKENS)
            return done.text.strip()

        self._progress.step()
        return str(self._kept.take(compute, "ask", identity, question))

    def _examples(self) -> tuple[Message, ...]:
        """Return the samples as earlier turns, as many as the product would show."""
        room = int(CONTEXT_SHARE * self._engine.models()[0].context_tokens)

        def fits(chosen: tuple[int, ...]) -> bool:
            turns = turns_of([self._samples[i] for i in chosen])
            return self._calls.tokens((*turns, turns[0])) <= room

        chosen = choose_examples(self._samples, range(len(self._samples)), fits)
        return turns_of([self._samples[i] for i in chosen])

    def _by_embedding(self, result: StrangerResults) -> None:
        """Answer by the embedding alone: the nearest class mean, and the product's classifier."""
        self._progress.what = f"{self._user.name}: embeddings"
        keys = [same_key(label) for label in self._user.labels]
        labels = [keys.index(same_key(answer)) for _, answer in self._user.samples]

        def compute() -> tuple[list[int], list[int]]:
            texts = [*(sample.question for sample in self._samples), *(item.question for item in self._items)]
            vectors, _, _ = self._calls.vectors(some_pool(self._engine), texts)
            own, asked = vectors[: len(labels)], vectors[len(labels) :]
            values = Classifier(own, labels, len(keys)).values(asked)
            return class_means(own, labels, asked).tolist(), values.argmax(axis=1).tolist()

        questions = [item.question for item in self._items]
        found = self._kept.take(compute, "embedding", self._user.samples, questions, self._user.labels)
        right = [item.answer for item in self._items]
        result.right["class_mean"] = np.array(found[0]) == right
        result.right["answers"] = np.array(found[1]) == right


def class_means(rows_: NDArray[np.floating], labels: Sequence[int], queries: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return for each query, (m, D) unit rows, the label whose samples' mean is nearest by its angle, (m,).

    Args:
        rows_: the samples, (n, D) unit rows.
        labels: of the samples, (n,).
        queries: what is to be labelled.
    """
    known = sorted(set(labels))
    given = np.asarray(labels)
    means = np.stack([rows_[given == label].mean(axis=0) for label in known])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return np.asarray(np.asarray(known)[(queries @ means.T).argmax(axis=1)], np.intp)


def live(made: Customization) -> str:
    """Return in words what the profiles of a customisation answer with."""
    return "; ".join(
        " + ".join([*(("blend",) if any(profile.weights) else ()), *profile.evidence.kinds]) or "plain base"
        for profile in made.profiles
    )


class _Progress:
    """Tells now and then where it is, and of each user that is done."""

    def __init__(self, questions: int, tell: Tell) -> None:
        self.what = ""
        self._tell = tell
        self._left = questions
        self._total = questions
        self._answers = 0
        self._started = self._told = time.monotonic()

    def step(self) -> None:
        """Count one answer."""
        self._answers += 1
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S:
            self._told = now
            self._tell(f"{self.what}; {self._answers:,} answers so far")

    def user_done(self, result: StrangerResults, questions: int) -> None:
        """Say how a user fared, and how long the others will take."""
        self._left -= questions
        now = self._told = time.monotonic()
        took = (now - self._started) * self._left / (self._total - self._left)
        left = f", about {took:.0f} s left" if self._left else ""
        shares = [100 * result.right[name].mean() for name in ("base", "combined")]
        text = f"right: {shares[0]:.0f} % plain, {shares[1]:.0f} % customised, {100 * result.asked.mean():.0f} % by ask"
        self._tell(f"{result.name}: {result.live}; {text}{left}")
