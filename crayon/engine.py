"""The contract of every engine: the device's, the server's (llama.cpp, vLLM, echo) and the remote one over gRPC.

An engine takes requests from any thread and never blocks its caller: `generate` returns a `Stream` at once, `score`
and `encode` return futures. Whoever waits can do so from a thread (`for event in stream`, `future.result()`) or from
asyncio (`async for`, `asyncio.wrap_future`).
"""

from __future__ import annotations

import time
import uuid
from concurrent.futures import CancelledError as FutureCancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from crayon.completion import Usage
from crayon.errors import (
    CancelledError,
    CrayonError,
    DeadlineExceededError,
    InvalidRequestError,
    ServerRejectedError,
)
from crayon.messages import check_unicode
from crayon.sampling import Sampling
from crayon.stream import Delta as Delta
from crayon.stream import Event as Event
from crayon.stream import Finished as Finished
from crayon.stream import Started as Started
from crayon.stream import Stream as Stream  # noqa: TC001 - it is given on to who imports it from here
from crayon.stream import TokenSignal as TokenSignal
from crayon.token_options import check_logit_bias, check_top_logprobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from crayon.completion import Blend
    from crayon.constraint import Constraint
    from crayon.messages import Message
    from crayon.token_options import LogitBias
    from crayon.tool import Tools


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


class _Begun(Protocol):
    """`Started`, or the message of it."""

    @property
    def model(self) -> str: ...

    @property
    def constrained(self) -> bool: ...

    @property
    def kept(self) -> Iterable[str]: ...


def needs(request: GenerateRequest) -> frozenset[str]:
    """Return the fields of a request that not every engine knows; one that keeps to them says so in `Started.kept`."""
    found: set[str] = set()
    if any(message.tool_calls for message in request.messages):
        found.add("messages.tool_calls")
    if any(message.reasoning for message in request.messages):
        found.add("messages.reasoning")
    if request.tools is not None and request.tools.offered:
        found.add("tools")
    if request.logit_bias:
        found.add("logit_bias")
    if request.top_logprobs is not None:
        found.add("top_logprobs")
    return frozenset(found)


def check_kept(request: GenerateRequest, started: _Begun) -> None:
    """Check by the first event of an answer that its engine overlooked nothing of the request.

    Raises:
        ServerRejectedError: it did; nothing of the answer may be used.
    """
    who = f"{started.model!r}" if started.model else "the engine"
    constraint = request.constraint
    if constraint is not None and not started.constrained:
        raise ServerRejectedError(f"{who} does not know constraints, so {constraint.field} would be ignored; update it")
    if missing := needs(request).difference(started.kept):
        names = " and ".join(sorted(missing))
        raise ServerRejectedError(f"{who} does not know {names}, so it would be ignored; update it")


def _not_empty(messages: Sized) -> None:
    if not messages:
        raise InvalidRequestError("messages", "is empty; pass at least one user message")


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `messages` messages of a request, which many requests share; more messages follow them.

    A hint for the device: what it computed for them stays in memory, and between runs in `folder` where one is given
    and is there. Every other engine ignores it, and it never leaves the device.

    Raises:
        InvalidRequestError: `messages` is no number from 1.
    """

    messages: int
    folder: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.messages, bool) or not isinstance(self.messages, int) or self.messages < 1:
            raise InvalidRequestError("prefix", f"must cover at least 1 message, not {self.messages!r}")


def _check_prefix(prefix: Prefix | None, messages: Sized) -> None:
    if prefix is not None and prefix.messages >= len(messages):
        problem = f"covers {prefix.messages} messages of {len(messages)}; at least one must follow it"
        raise InvalidRequestError("prefix", problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One answer wanted. `deadline` is a `time.monotonic()` of this process; `model` "" means the engine's own.

    `client` says whose request it is (for a server: token, certificate or address): clients share an engine fairly.
    Without `signals` the caller reads none, and `Delta.signals` may be empty: they cost an engine time at every token.
    `prefix` says which messages other requests begin with as well. `constraint` is what the answer must look like: an
    engine that keeps it says so in `Started`, and every other one refuses it. So is it with `tools`, which the answer
    may call, with `logit_bias`, which is added to the logits of tokens before one is drawn, and with `top_logprobs`:
    not None, the Deltas hold the log-probability of each token, with so many likely ones in its place.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    blend: Blend | None = None
    deadline: float | None = None
    request_id: str = field(default_factory=new_request_id)
    model: str = ""
    client: str = ""
    signals: bool = True
    prefix: Prefix | None = None
    constraint: Constraint | None = None
    tools: Tools | None = None
    logit_bias: LogitBias = ()
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        _not_empty(self.messages)
        _check_prefix(self.prefix, self.messages)
        check_top_logprobs(self.top_logprobs)
        object.__setattr__(self, "logit_bias", check_logit_bias(self.logit_bias))
        if self.constraint is not None and self.tools is not None and self.tools.offered:
            raise InvalidRequestError(self.constraint.field, "cannot be given beside tools; ask in two turns")
        if (self.constraint is not None or self.tools is not None) and self.sampling.ignore_eos:
            field = self.constraint.field if self.constraint is not None else "tools"
            problem = f"cannot be set beside {field}, under which an answer has an end of its own"
            raise InvalidRequestError("ignore_eos", problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Asks how likely each continuation is after the shared prompt.

    The prompt is the messages in the model's chat template, up to where the assistant's text would start. `prefix` says
    which messages other requests begin with as well.
    """

    messages: tuple[Message, ...]
    continuations: tuple[str, ...]
    blend: Blend | None = None
    deadline: float | None = None
    request_id: str = field(default_factory=new_request_id)
    model: str = ""
    client: str = ""
    prefix: Prefix | None = None

    def __post_init__(self) -> None:
        _not_empty(self.messages)
        _check_prefix(self.prefix, self.messages)
        if not self.continuations:
            raise InvalidRequestError("continuations", "is empty; pass at least one text")
        for i, text in enumerate(self.continuations):
            if not isinstance(text, str) or not text:
                raise InvalidRequestError(f"continuations[{i}]", "must be a non-empty text")
            check_unicode(f"continuations[{i}]", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRequest:
    """Texts to embed: one vector each, comparable by cosine.

    With `everyday`, raw states come with those of the engine's everyday texts (the first time some seconds later).
    """

    texts: tuple[str, ...]
    everyday: bool = False
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


# How an engine pools the states of a text's tokens, by name: states that were pooled otherwise are of another space.
POOLING = "unit_mean"


@dataclass(frozen=True, slots=True, eq=False)
class EverydayStates:
    """Pooled hidden states of everyday texts, those of one intent in one group: what a space can be made of.

    Args:
        groups: for each intent float32 of shape (wordings, dimensions).
        texts: hash of the texts.
    """

    groups: tuple[NDArray[np.float32], ...]
    texts: str


@dataclass(frozen=True, slots=True)
class RawStates:
    """Pooled hidden states as they are, not centred: for who has a centre of their own (a pool's keys do).

    Args:
        states: float32 of shape (texts, dimensions).
        background: the engine's own background texts likewise, shape (texts, dimensions).
        layer: the layer read, counted from 0.
        everyday: those of the engine's everyday texts, where the request asked for them: the same object each time.
    """

    states: NDArray[np.float32]
    background: NDArray[np.float32]
    layer: int
    everyday: EverydayStates | None = None


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
CONSTRAIN = "constrain"


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
