"""The calls of customising with what they found kept: embeddings, and how likely texts are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.device_calls import DeviceCalls
from crayon.customising.space import space_of_pool
from crayon.engine import ContinuationScore, ScoreResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.customising.space import Space
    from crayon.device import DeviceEngine
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.messages import Message

PATIENCE_S = 600.0


class KeptCalls(DeviceCalls):
    """Calls of customising whose answers are kept; a decision is made anew from them each time.

    Args:
        engine: the device.
        cache: where they are kept.
        model_key: stands for the model file and the library.
        identity: tells one change of the model from another.
    """

    def __init__(
        self, engine: DeviceEngine, cache: AnswerCache, model_key: str, identity: Callable[[Blend | None], str]
    ) -> None:
        super().__init__(engine, patience=PATIENCE_S)
        self._cache = cache
        self._key = model_key
        self._identity = identity

    def score(
        self, messages: tuple[Message, ...], texts: Sequence[str], blend: Blend | None, *, ended: bool = False
    ) -> ScoreResult:
        """Return how likely each text is as the answer; errors as `DeviceCalls.score`, which are not kept."""
        identity = self._identity(blend)
        turns = [[message.role, message.content] for message in messages]
        key = self._cache.key("score-1", self._key, identity, turns, list(texts), ended)
        kept = self._cache.get(key)
        if kept is None:
            found = super().score(messages, texts, blend if identity else None, ended=ended)
            kept = json.dumps([[round(value, 6) for value in each.token_logprobs] for each in found.scores]).encode()
            self._cache.put(key, kept)
        return ScoreResult(tuple(ContinuationScore(tuple(values)) for values in json.loads(kept)))

    def vectors(
        self, pool: Pool | None, texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Space]:
        """Return texts and background in the space of a pool's keys, or without a pool in the model's own."""
        # What the model's own space is, only the engine tells: one text is embedded anew.
        space = super().vectors(None, texts[:1])[2] if pool is None else space_of_pool(pool)
        keys = [self._cache.key("vector-3", self._key, space.id, text) for text in texts]
        background_key = self._cache.key("background-3", self._key, space.id)
        kept = [self._cache.get(key) for key in keys]
        background = self._cache.get(background_key)
        missing = [i for i, value in enumerate(kept) if value is None]
        if missing or background is None:
            wanted = missing or [0]
            own, others, _ = super().vectors(pool, [texts[i] for i in wanted])
            for row, i in zip(own, wanted, strict=True):
                kept[i] = row.tobytes()
                self._cache.put(keys[i], row.tobytes())
            background = others.tobytes()
            self._cache.put(background_key, background)
        width = space.dimensions
        rows = np.frombuffer(b"".join(value for value in kept if value is not None), np.float32)
        others = np.frombuffer(background, np.float32).reshape(-1, width).copy()
        return rows.reshape(-1, width).copy(), others, space
