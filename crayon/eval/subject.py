"""The device under test: what it answers to a question under a blend, and how likely each option is."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon import Crayon, Message
from crayon.adapters.blend import check_weights
from crayon.customising.device_calls import DeviceCalls
from crayon.errors import AdapterError, PromptTooLongError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.data.qa import Item
    from crayon.device import DeviceEngine
    from crayon.eval.answer_cache import AnswerCache

# Of an answer without options.
MAX_TOKENS = 24
# Beyond the longest option: no longer answer can equal one, but for articles and punctuation.
SPARE_TOKENS = 4
MOST_TOKENS = 64
PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came out for one item; `sums` and `means` hold the log-probability of each option, whole and per token."""

    text: str
    sums: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    too_long: bool = False


class Subject:
    """Answers through the SDK and scores through the engine, each thing once.

    Args:
        engine: the device, with every pool that blends will name; it stays the caller's to close.
        cache: where answers are kept.
        model_key: stands for the model file and the library.
    """

    def __init__(self, engine: DeviceEngine, cache: AnswerCache, model_key: str) -> None:
        self._cache = cache
        self._key = model_key
        self._client = Crayon(engine, hardness=False)
        self._calls = _KeptCalls(engine, cache, model_key)
        self._digests = {pool.id: _PoolDigest(pool) for pool in engine.pools}
        self.computed = 0
        self.seconds = 0.0

    @property
    def calls(self) -> DeviceCalls:
        """The calls that customising makes; embeddings are kept."""
        return self._calls

    def identity(self, blend: Blend | None) -> str:
        """Return what tells one change of the model from another: "" is the base."""
        if blend is None:
            return ""
        digest = self._digests.get(blend.pool_id)
        if digest is None:
            raise AdapterError(f"there is no pool {blend.pool_id!r} here")
        return digest.of(blend)

    def answer(self, item: Item, blend: Blend | None, shots: Sequence[Message] = ()) -> Answer:
        """Return what the model answers, and how likely it finds each option; shots too long are halved."""
        identity = self.identity(blend)
        key = self._cache.key(
            "answer-1", self._key, identity, [[m.role, m.content] for m in shots], item.prompt, item.choices
        )
        kept = self._cache.get(key)
        if kept is not None:
            text, sums, means, too_long = json.loads(kept)
            return Answer(text, tuple(sums), tuple(means), too_long)
        started = time.monotonic()
        found = self._compute(item, blend if identity else None, tuple(shots))
        self.seconds += time.monotonic() - started
        self.computed += 1
        self._cache.put(key, json.dumps([found.text, found.sums, found.means, found.too_long]).encode())
        return found

    def likelihood(self, item: Item, blend: Blend | None) -> float:
        """Return the log-probability per token of the right answer: what searches are led by."""
        identity = self.identity(blend)
        key = self._cache.key("likelihood-1", self._key, identity, item.prompt, item.answer_text)
        kept = self._cache.get(key)
        if kept is not None:
            return float(json.loads(kept))
        started = time.monotonic()
        scores = self._client.score(item.prompt, [item.answer_text], blend=blend, timeout=PATIENCE_S)
        self.seconds += time.monotonic() - started
        value = scores.scores[0].mean
        self._cache.put(key, json.dumps(value).encode())
        return value

    def _compute(self, item: Item, blend: Blend | None, shots: tuple[Message, ...]) -> Answer:
        # The options first and the free answer right after: the prompt is computed once for both.
        messages = [*shots, Message("user", item.prompt)]
        try:
            sums: tuple[float, ...] = ()
            means: tuple[float, ...] = ()
            limit = MAX_TOKENS
            if item.choices:
                scores = self._client.score(messages, item.choices, blend=blend, timeout=PATIENCE_S).scores
                sums = tuple(round(score.total, 5) for score in scores)
                means = tuple(round(score.mean, 5) for score in scores)
                limit = min(MOST_TOKENS, SPARE_TOKENS + max(len(score.token_logprobs) for score in scores))
            done = self._client.ask(messages, blend=blend, timeout=PATIENCE_S, temperature=0.0, max_tokens=limit)
            return Answer(done.text, sums, means)
        except PromptTooLongError:
            if not shots:
                return Answer("", too_long=True)
            half = len(shots) // 4 * 2  # whole pairs of question and answer
            return self._compute(item, blend, shots[len(shots) - half :])


class _KeptCalls(DeviceCalls):
    """The calls of customising, with embeddings kept."""

    def __init__(self, engine: DeviceEngine, cache: AnswerCache, model_key: str) -> None:
        super().__init__(engine, patience=PATIENCE_S)
        self._cache = cache
        self._key = model_key

    def vectors(self, pool: Pool, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return texts and background in the pool's space."""
        centre = hashlib.sha256(pool.centre.tobytes()).hexdigest()
        keys = [self._cache.key("vector-1", self._key, centre, str(pool.manifest.encoder), text) for text in texts]
        background_key = self._cache.key("background-1", self._key, centre, str(pool.manifest.encoder))
        kept = [self._cache.get(key) for key in keys]
        background = self._cache.get(background_key)
        missing = [i for i, value in enumerate(kept) if value is None]
        if missing or background is None:
            wanted = missing or [0]
            own, others = super().vectors(pool, [texts[i] for i in wanted])
            for row, i in zip(own, wanted, strict=True):
                kept[i] = row.tobytes()
                self._cache.put(keys[i], row.tobytes())
            background = others.tobytes()
            self._cache.put(background_key, background)
        width = pool.centre.size
        rows = np.frombuffer(b"".join(value for value in kept if value is not None), np.float32)
        return rows.reshape(-1, width).copy(), np.frombuffer(background, np.float32).reshape(-1, width).copy()


class _PoolDigest:
    """Names blends by what their members are, so that other members of the pool may change."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._members: dict[int, str] = {}
        self._shared = ""
        if pool.manifest.kind == "shared":
            shared = hashlib.sha256(f"{pool.manifest.scale} {pool.manifest.rank}".encode())
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
