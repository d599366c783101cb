"""The device under test: what it answers to a question under a blend, and how likely each option is."""

from __future__ import annotations

import functools
import hashlib
import json
import queue
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crayon import Crayon, Message
from crayon.adapters.blend import check_weights
from crayon.engine import ScoreRequest, deadline_after
from crayon.errors import AdapterError, PromptTooLongError
from crayon.lab.eval.kept_calls import PATIENCE_S, KeptCalls
from crayon.lab.eval.product import ask_product, make_product, read_given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.customising.sample import Sample
    from crayon.data.qa import Item
    from crayon.device import DeviceEngine
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.product import Given, Product

# Of an answer without options.
MAX_TOKENS = 24
# Beyond the longest option: no longer answer can equal one, but for articles and punctuation.
SPARE_TOKENS = 4
MOST_TOKENS = 64


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """What came out for one item.

    For each option `sums` and `means` hold the log-probability of its text, whole and per token, and `ends` that of the
    answer's end after it.
    """

    text: str
    sums: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()
    too_long: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """An item to be answered under a blend (None: the base), after these turns."""

    item: Item
    blend: Blend | None = None
    shots: tuple[Message, ...] = ()


class DeviceRunner:
    """Answers through the SDK and scores through the engine, each thing once. Used by one thread.

    Args:
        engines: the device, as often as questions are answered side by side, each with every pool that blends will
            name; they stay the caller's to close.
        cache: where answers are kept.
        model_key: stands for the model file and the library.
    """

    def __init__(self, engines: Sequence[DeviceEngine], cache: AnswerCache, model_key: str) -> None:
        self._cache = cache
        self._key = model_key
        self._calls = KeptCalls(engines[0], cache, model_key, self.identity)
        self._digests = {pool.id: _PoolDigest(pool) for pool in engines[0].pools}
        self._folder = tempfile.TemporaryDirectory(prefix="crayon-eval-")
        self._sides: queue.SimpleQueue[_Side] = queue.SimpleQueue()
        for engine in engines:
            self._sides.put(_Side(engine, Crayon(engine, hardness=False, customizations_dir=self._folder.name)))
        self._workers = ThreadPoolExecutor(len(engines), thread_name_prefix="crayon-eval")

    @property
    def calls(self) -> KeptCalls:
        """The calls that customising makes; what they find is kept."""
        return self._calls

    def identity(self, blend: Blend | None) -> str:
        """Return what tells one change of the model from another: "" is the base."""
        if blend is None:
            return ""
        digest = self._digests.get(blend.pool_id)
        if digest is None:
            raise AdapterError(f"there is no pool {blend.pool_id!r} here")
        return digest.of(blend)

    def answers(self, questions: Sequence[Question], step: Callable[[], None] = lambda: None) -> list[DeviceAnswer]:
        """Return what the model answers, and how likely it finds each option; turns too long are halved.

        `step` is called for each answer.
        """
        work: list[tuple[str, Callable[[_Side], bytes]]] = []
        for question in questions:
            identity = self.identity(question.blend)
            turns = [[message.role, message.content] for message in question.shots]
            item = question.item
            key = self._cache.key("answer-2", self._key, identity, turns, item.prompt, item.choices)
            asked = question if identity else replace(question, blend=None)
            work.append((key, functools.partial(_answered, asked)))
        found = []
        for data in self._each(work):
            text, sums, means, ends, too_long = json.loads(data)
            found.append(DeviceAnswer(text, tuple(sums), tuple(means), tuple(ends), too_long))
            step()
        return found

    def choices(self, questions: Sequence[Question], step: Callable[[], None] = lambda: None) -> list[DeviceAnswer]:
        """Return how likely the model finds each option, as `answers` does, without writing an answer."""
        work: list[tuple[str, Callable[[_Side], bytes]]] = []
        for question in questions:
            identity, item = self.identity(question.blend), question.item
            key = self._cache.key("choices-1", self._key, identity, item.prompt, item.choices)
            work.append((key, functools.partial(_chosen, question if identity else replace(question, blend=None))))
        found = []
        for data in self._each(work):
            sums, means, ends = json.loads(data)
            found.append(DeviceAnswer("", tuple(sums), tuple(means), tuple(ends)))
            step()
        return found

    def product(self, samples: Sequence[Sample], pool_id: str | None = None) -> Product:
        """Return the customisation that a user with these samples gets, checked; `pool_id` as `customise` takes it."""
        return make_product(self._calls, Path(self._folder.name), samples, pool_id, self.identity, self._cache)

    def given(self, product: Product, items: Sequence[Item], step: Callable[[], None] = lambda: None) -> list[Given]:
        """Return what a customisation answers to items, asked by its name; `step` is called for each answer."""
        work: list[tuple[str, Callable[[_Side], bytes]]] = []
        for item in items:
            key = self._cache.key("given-2", self._key, product.key, item.prompt, item.choices)
            work.append((key, functools.partial(_given, product.customization.name, item)))
        found = []
        for data in self._each(work):
            found.append(read_given(data))
            step()
        return found

    def likelihood(self, items: Sequence[Item], blend: Blend | None) -> float:
        """Return the mean log-probability per token of the right answers: what searches are led by."""
        identity = self.identity(blend)
        work: list[tuple[str, Callable[[_Side], bytes]]] = [
            (
                self._cache.key("likelihood-2", self._key, identity, item.prompt, item.answer_text),
                functools.partial(_likelihood, item, blend if identity else None),
            )
            for item in items
        ]
        return float(np.mean([json.loads(data) for data in self._each(work)]))

    def close(self) -> None:
        """End the threads; questions that wait are dropped."""
        self._workers.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def _each(self, work: Sequence[tuple[str, Callable[[_Side], bytes]]]) -> Iterator[bytes]:
        """Yield what each piece of work comes to, in order: kept from before, or computed side by side."""
        kept = [self._cache.get(key) for key, _ in work]
        futures = {
            i: self._workers.submit(self._run, compute) for i, (_, compute) in enumerate(work) if kept[i] is None
        }
        try:
            for i, value in enumerate(kept):
                if value is None:
                    value = futures.pop(i).result()
                    self._cache.put(work[i][0], value)
                yield value
        finally:
            for future in futures.values():
                future.cancel()

    def _run(self, compute: Callable[[_Side], bytes]) -> bytes:
        side = self._sides.get()
        try:
            return compute(side)
        finally:
            self._sides.put(side)


@dataclass(frozen=True, slots=True)
class _Side:
    """One device, as it is and behind the SDK."""

    engine: DeviceEngine
    client: Crayon


def _answered(question: Question, side: _Side) -> bytes:
    # The options first and the free answer right after: the prompt is computed once for both.
    item, shots, blend = question.item, question.shots, question.blend
    messages = (*shots, Message("user", item.prompt))
    options: list[tuple[float, ...]] = []
    limit = MAX_TOKENS
    try:
        if item.choices:
            options = _scored(side.engine, messages, item.choices, blend)
            limit = min(MOST_TOKENS, SPARE_TOKENS + max(len(each) for each in options))
        done = side.client.ask(messages, blend=blend, timeout=PATIENCE_S, temperature=0.0, max_tokens=limit)
    except PromptTooLongError:
        if not shots:
            return json.dumps(["", [], [], [], True]).encode()
        half = len(shots) // 4 * 2  # whole pairs of question and answer
        return _answered(replace(question, shots=shots[len(shots) - half :]), side)
    return json.dumps([done.text, *_summed(options), False]).encode()


def _given(name: str, item: Item, side: _Side) -> bytes:
    # A token has two letters at least, but for few: no option is cut.
    longest = max((len(choice.encode()) for choice in item.choices), default=0)
    limit = min(MOST_TOKENS, SPARE_TOKENS + longest // 2) if item.choices else MAX_TOKENS
    return ask_product(side.client, name, item, limit)


def _chosen(question: Question, side: _Side) -> bytes:
    messages = (Message("user", question.item.prompt),)
    return json.dumps(_summed(_scored(side.engine, messages, question.item.choices, question.blend))).encode()


def _summed(options: Sequence[tuple[float, ...]]) -> tuple[list[float], list[float], list[float]]:
    """Return for each option the log-probability of its text, whole and per token, and of the answer's end."""
    sums = [round(sum(each[:-1]), 5) for each in options]
    means = [round(sum(each[:-1]) / (len(each) - 1), 5) for each in options]
    return sums, means, [round(each[-1], 5) for each in options]


def _likelihood(item: Item, blend: Blend | None, side: _Side) -> bytes:
    (own,) = _scored(side.engine, (Message("user", item.prompt),), (item.answer_text,), blend)
    return json.dumps(sum(own) / len(own)).encode()


def _scored(
    engine: DeviceEngine, messages: tuple[Message, ...], texts: tuple[str, ...], blend: Blend | None
) -> list[tuple[float, ...]]:
    """Return the log-probabilities of each text's tokens, and of the answer's end after them."""
    request = ScoreRequest(messages=messages, continuations=texts, blend=blend, deadline=deadline_after(PATIENCE_S))
    future = engine.score(request, ended=True)
    try:
        return [score.token_logprobs for score in future.result(PATIENCE_S).scores]
    finally:
        future.cancel()


class _PoolDigest:
    """Names blends by what their members are, so that other members of the pool may change."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._members: dict[int, str] = {}
        self._shared = ""
        if pool.manifest.kind == "shared":
            manifest = pool.manifest
            shared = hashlib.sha256(f"{manifest.scale} {manifest.rank} {manifest.precision}".encode())
            for name, a in pool.a.items():
                shared.update(name.encode() + np.ascontiguousarray(a).tobytes())
            self._shared = shared.hexdigest()

    def of(self, blend: Blend) -> str:
        weights = check_weights(self._pool, blend.weights)
        parts = sorted((self._member(int(k)), round(float(weights[k]), 6)) for k in np.flatnonzero(weights))
        return hashlib.sha256(json.dumps([self._shared, parts]).encode()).hexdigest() if parts else ""

    def _member(self, index: int) -> str:
        if index not in self._members:
            if self._shared:
                digest = hashlib.sha256(self._pool.b[index].tobytes())
            else:
                lora = self._pool.member(index)
                digest = hashlib.sha256(str(lora.scale).encode())
                for name, (a, b) in lora.tensors.items():
                    digest.update(name.encode() + a.tobytes() + b.tobytes())
            self._members[index] = digest.hexdigest()
        return self._members[index]
