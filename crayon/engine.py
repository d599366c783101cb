"""The contract of every engine: the device's, the server's (llama.cpp, vLLM, echo) and the remote one over gRPC.

An engine takes requests from any thread and never blocks its caller: `generate` returns a `Stream` at once, `score`
and `encode` return futures. Whoever waits can do so from a thread (`for event in stream`, `future.result()`) or from
asyncio (`async for`, `asyncio.wrap_future`).
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import deque
from concurrent.futures import CancelledError as FutureCancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from crayon.completion import Blend, FinishReason, Timings, Usage
from crayon.errors import CancelledError, CrayonError, DeadlineExceededError, InvalidRequestError
from crayon.messages import check_unicode
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sized
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from crayon.messages import Message


T = TypeVar("T")


def new_request_id() -> str:
    """Return a fresh, unguessable request id."""
    return uuid.uuid4().hex


def deadline_after(seconds: float | None) -> float | None:
    """Return the `time.monotonic()` at which a request of this patience ends; None waits for ever.

    Raises:
        InvalidRequestError: `seconds` is zero, negative or not a number.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidRequestError("deadline", f"must be more than 0 seconds, not {seconds!r}")
    return time.monotonic() + seconds


def wait_for(future: Future[T], until: float | None, what: str = "the call") -> T:
    """Wait for a future until a `time.monotonic()`; it is cancelled if the wait ends before it does.

    Raises:
        DeadlineExceededError: `until` passed.
        CancelledError: somebody cancelled it.
    """
    try:
        return future.result(None if until is None else max(0.0, until - time.monotonic()))
    except CrayonError:
        raise  # some are TimeoutErrors too
    except FutureCancelledError:
        raise CancelledError(f"{what} was cancelled") from None
    except TimeoutError:
        raise DeadlineExceededError from None
    finally:
        future.cancel()


def _not_empty(messages: Sized) -> None:
    if not messages:
        raise InvalidRequestError("messages", "is empty; pass at least one user message")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One answer wanted. `deadline` is a `time.monotonic()` of this process; `model` "" means the engine's own.

    `client` says whose request it is (for a server: token, certificate or address): clients share an engine fairly.
    Without `signals` the caller reads none, and `Delta.signals` may be empty: they cost an engine time at every token.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    blend: Blend | None = None
    deadline: float | None = None
    request_id: str = field(default_factory=new_request_id)
    model: str = ""
    client: str = ""
    signals: bool = True

    def __post_init__(self) -> None:
        _not_empty(self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Asks how likely each continuation is after the shared prompt.

    The prompt is the messages in the model's chat template, up to where the assistant's text would start.
    """

    messages: tuple[Message, ...]
    continuations: tuple[str, ...]
    blend: Blend | None = None
    deadline: float | None = None
    request_id: str = field(default_factory=new_request_id)
    model: str = ""
    client: str = ""

    def __post_init__(self) -> None:
        _not_empty(self.messages)
        if not self.continuations:
            raise InvalidRequestError("continuations", "is empty; pass at least one text")
        for i, text in enumerate(self.continuations):
            if not isinstance(text, str) or not text:
                raise InvalidRequestError(f"continuations[{i}]", "must be a non-empty text")
            check_unicode(f"continuations[{i}]", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRequest:
    """Texts to embed: one vector each, comparable by cosine."""

    texts: tuple[str, ...]
    deadline: float | None = None
    request_id: str = field(default_factory=new_request_id)
    model: str = ""
    client: str = ""

    def __post_init__(self) -> None:
        if not self.texts:
            raise InvalidRequestError("texts", "is empty; pass at least one text")
        for i, text in enumerate(self.texts):
            if not isinstance(text, str) or not text.strip():
                raise InvalidRequestError(f"texts[{i}]", "must be a non-empty text")
            check_unicode(f"texts[{i}]", text)


@dataclass(frozen=True, slots=True)
class TokenSignal:
    """What the model thought of one token it wrote, from its unmodified distribution (natural logarithms).

    `logprob` of the token taken, `entropy` of the whole distribution, `margin` between its two largest probabilities.
    """

    logprob: float
    entropy: float
    margin: float


@dataclass(frozen=True, slots=True)
class Started:
    """First event: the request has left the queue."""

    request_id: str
    model: str
    blend: Blend | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer. `text` is always whole characters; a token may add none. One signal a token, if wanted."""

    text: str
    signals: tuple[TokenSignal, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of an answer that succeeded."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Event: TypeAlias = Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """Natural log-probability of each token of one continuation."""

    token_logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation."""
        return sum(self.token_logprobs)

    @property
    def mean(self) -> float:
        """Log-probability per token: fairer between options of different length."""
        return self.total / len(self.token_logprobs)


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """One score a continuation, in the order of the request."""

    scores: tuple[ContinuationScore, ...]
    usage: Usage = field(default_factory=Usage)
    model: str = ""


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """`vectors` is float32 of shape (texts, dimensions), each row of length 1."""

    vectors: NDArray[np.float32]
    usage: Usage = field(default_factory=Usage)
    model: str = ""


@dataclass(frozen=True, slots=True)
class RawStates:
    """Mean hidden states as they are, not centred: for who has a centre of their own (a pool's keys do).

    Args:
        states: float32 of shape (texts, dimensions).
        background: the engine's own background texts likewise, shape (texts, dimensions).
        layer: the layer read, counted from 0.
    """

    states: NDArray[np.float32]
    background: NDArray[np.float32]
    layer: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model an engine serves. `context_tokens` is the most one request may hold, prompt and answer together."""

    name: str
    context_tokens: int
    source_sha256: str = ""
    quantization: str = ""
    capabilities: frozenset[str] = frozenset()


# What an engine can do; a request for anything else is refused by name.
GENERATE = "generate"
SCORE = "score"
ENCODE = "encode"
BLEND = "blend"


@runtime_checkable
class Engine(Protocol):
    """Anything that answers. All methods may be called from any thread."""

    def models(self) -> tuple[ModelInfo, ...]:
        """Return what is served; the first is the default."""
        ...

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer; wrong requests raise at once or fail the stream."""
        ...

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Score continuations. Cancelling the future frees the engine."""
        ...

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Embed texts. Cancelling the future frees the engine."""
        ...

    def close(self) -> None:
        """End what runs (its callers see EngineClosedError) and free everything. Safe to call twice."""
        ...


class Stream:
    """Events of one generation: written by an engine's thread, read by one caller, from a thread or from asyncio.

    Iterating yields `Started`, then `Delta`s, then `Finished`; a failure is raised in its place. Leaving the `with`
    block, or `cancel()`, ends the generation early and frees its slot.
    """

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._events: deque[Event | CrayonError] = deque()
        self._ready = threading.Condition()
        self._on_cancel = on_cancel
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._closed = False  # no more will be pushed
        self.cancelled = False

    # -- engine side

    def push(self, event: Event) -> None:
        """Add an event; `Finished` ends the stream. Ignored after the end."""
        self._put(event, last=isinstance(event, Finished))

    def fail(self, error: CrayonError) -> None:
        """End the stream with an error. Ignored after the end."""
        self._put(error, last=True)

    @property
    def closed(self) -> bool:
        """Whether the last event was pushed."""
        return self._closed

    def _put(self, item: Event | CrayonError, *, last: bool) -> None:
        with self._ready:
            if self._closed:
                return
            self._closed = last
            self._events.append(item)
            self._wake()

    def _wake(self) -> None:
        self._ready.notify_all()
        if self._waiter is not None:
            loop, future = self._waiter
            self._waiter = None
            # The loop may have been closed, maybe this very moment, under a reader that gave up.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, future)

    # -- reader side

    def cancel(self) -> None:
        """End the generation early. Safe to call at any time, twice, and from any thread."""
        with self._ready:
            already = self.cancelled
            self.cancelled = True
        if not already and not self._closed and self._on_cancel is not None:
            self._on_cancel()
        self.fail(CancelledError("the caller cancelled"))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        with self._ready:
            while not self._events:
                if self._closed:
                    raise StopIteration
                self._ready.wait()
            return _unwrap(self._events.popleft())

    def get(self, timeout: float) -> Event | None:
        """Return the next event, or None if there is none within `timeout` seconds.

        Raises:
            StopIteration: the stream has ended.
            CrayonError: the generation failed.
        """
        with self._ready:
            if not self._events and not self._closed:
                self._ready.wait(timeout)
            if not self._events:
                if self._closed:
                    raise StopIteration
                return None
            return _unwrap(self._events.popleft())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            with self._ready:
                if self._events:
                    return _unwrap(self._events.popleft())
                if self._closed:
                    raise StopAsyncIteration
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiter = (loop, future)
            await future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()


def _unwrap(item: Event | CrayonError) -> Event:
    if isinstance(item, CrayonError):
        raise item
    return item


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
