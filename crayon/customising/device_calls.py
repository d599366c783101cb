"""What customising asks of an engine: only one on this device will do, and each call has its patience."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from crayon.customising.space import space_for
from crayon.engine import EncodeRequest, Engine, GenerateRequest, ScoreRequest, wait_for
from crayon.errors import (
    AdapterError,
    CancelledError,
    InvalidRequestError,
    PrivacyError,
    PromptTooLongError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.customising.space import Space
    from crayon.engine import RawStates, ScoreResult, Stream
    from crayon.messages import Message
    from crayon.sampling import Sampling

WHAT = "customising"


@runtime_checkable
class PoolEngine(Engine, Protocol):
    """An engine in this process that blends pools and shows the states that their keys are compared with."""

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools it can blend, the default one first."""
        ...

    def encode_raw(self, request: EncodeRequest) -> Future[RawStates]:
        """Return pooled states, not centred."""
        ...

    def score(self, request: ScoreRequest, *, ended: bool = False) -> Future[ScoreResult]:
        """Score continuations; with `ended`, the last of each is the token that ends the answer."""
        ...


def on_this_device(engine: Engine) -> PoolEngine:
    """Return `engine` if it computes here: samples go to no other.

    Raises:
        PrivacyError: it does not, or does not say so.
    """
    if not isinstance(engine, PoolEngine) or getattr(engine, "address", None) is not None:
        raise PrivacyError("samples never leave the device, and this engine does not compute here; nothing was sent")
    return engine


def pool_of(engine: PoolEngine, pool_id: str | None = None) -> Pool:
    """Return a pool of the engine by its id, or its default one, that texts can be compared with.

    Raises:
        AdapterError: there is none, or it has no keys.
    """
    pools = [pool for pool in engine.pools if pool_id is None or pool.id == pool_id]
    if not pools:
        loaded = ", ".join(pool.id for pool in engine.pools) or "none"
        wanted = "no adapter pool is loaded for this model" if pool_id is None else f"pool {pool_id} is not loaded"
        raise AdapterError(
            f"{wanted} (loaded: {loaded}): a pool holds the adapters that a customisation blends; without one, samples "
            "still help as examples and by a classifier. To blend, open the model with pools=, `crayon pool ls` lists "
            "them"
        )
    pool = next((pool for pool in pools if pool.manifest.encoder is not None), None)
    if pool is None:
        raise AdapterError(f"pool {pools[0].id} has no keys, so samples cannot be compared with its members")
    return pool


class DeviceCalls:
    """Calls to one engine on this device that wait for their result.

    Args:
        engine: who computes.
        patience: seconds for one call; None waits for ever.
        cancelled: whether the caller has given up; asked before each call.
        what: what is done, for messages.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        patience: float | None = 120.0,
        cancelled: Callable[[], bool] = lambda: False,
        what: str = WHAT,
    ) -> None:
        self.engine = on_this_device(engine)
        self._what = what
        self._patience = patience
        self._cancelled = cancelled

    def vectors(
        self, pool: Pool | None, texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Space]:
        """Return texts and the engine's background as unit rows, (n, D) and (m, D), and their space.

        The space is that of a pool's keys; without a pool, the model's own, made of everyday texts.

        Raises:
            InvalidRequestError: a text is longer than the context; the field names the sample by number.
            AdapterError: the pool's keys were made from another layer.
        """
        until = self._until()
        try:
            request = EncodeRequest(texts=tuple(texts), deadline=until, everyday=pool is None)
            states = wait_for(self.engine.encode_raw(request), until, self._what)
        except PromptTooLongError as error:
            number = int(error.field.removeprefix("texts[").removesuffix("]")) + 1
            problem = f"has {error.prompt_tokens} tokens, at most {error.limit} fit; shorten it or leave it out"
            raise InvalidRequestError(f"sample {number}", problem) from None
        if len(states.background) < 2:
            raise AdapterError("the engine has no background texts to compare the samples with; open it by reference")
        space = space_for(pool, states)
        return space.place(states.states), space.place(states.background), space

    def tokens(self, messages: tuple[Message, ...]) -> int:
        """Return about how many tokens a conversation has: counted where the engine does that, else guessed."""
        count = getattr(self.engine, "count_tokens", None)
        return int(count(messages)) if count else sum(len(message.content) // 3 + 8 for message in messages)

    def score(
        self, messages: tuple[Message, ...], texts: Sequence[str], blend: Blend | None, *, ended: bool = False
    ) -> ScoreResult:
        """Return how likely each text is as the answer, its end included if asked for; errors as `Engine.score`."""
        until = self._until()
        request = ScoreRequest(messages=messages, continuations=tuple(texts), blend=blend, deadline=until)
        return wait_for(self.engine.score(request, ended=ended), until, self._what)

    def generate(self, messages: tuple[Message, ...], sampling: Sampling, blend: Blend | None) -> Stream:
        """Start an answer; errors as `Engine.generate`, and the deadline is the engine's to hold."""
        return self.engine.generate(
            GenerateRequest(messages=messages, sampling=sampling, blend=blend, deadline=self._until())
        )

    def _until(self) -> float | None:
        if self._cancelled():
            raise CancelledError(f"{self._what} was cancelled")
        return None if self._patience is None else time.monotonic() + self._patience


def some_pool(engine: PoolEngine, pool_id: str | None = None) -> Pool | None:
    """Return a pool of the engine by its id, or its default one; None where none is asked for and there is none.

    Raises:
        AdapterError: the pool that is asked for is not loaded, or has no keys.
    """
    if pool_id == "" or (pool_id is None and not any(pool.manifest.encoder for pool in engine.pools)):
        return None
    return pool_of(engine, pool_id)
