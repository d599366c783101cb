"""One call as it is seen from outside: when it came, how it went, what it used. No text of it is kept."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from crayon.engine import Delta, Finished, Started
from crayon.server.observability.histogram import Tally
from crayon.server.observability.metric_catalogue import FIRST_TOKEN, INTER_TOKEN

if TYPE_CHECKING:
    from crayon.completion import FinishReason, Timings, Usage
    from crayon.engine import EncodeRequest, Event, GenerateRequest, ScoreRequest
    from crayon.tracing import Span


class TokenPace:
    """What is counted while answers are written, of all calls together: plain numbers of the event loop's thread."""

    __slots__ = ("firsts", "gaps", "tokens")

    def __init__(self) -> None:
        self.firsts = Tally(FIRST_TOKEN.buckets)
        self.gaps = Tally(INTER_TOKEN.buckets)
        self.tokens = 0


class Observation:
    """What is known of one call, from its arrival on. Belongs to the event loop's thread.

    Args:
        method: the method's short name; one that the server has.
        client: who called, until the service knows better.
        pace: where tokens are counted.
        traceparent: what the caller's trace header says, if it was sent.
    """

    __slots__ = (
        "_last", "arrived", "arrived_ns", "client", "code", "ended", "finish_reason", "first", "method", "model",
        "pace", "request_bytes", "request_id", "span", "timings", "tokens", "traceparent", "usage",
    )  # fmt: skip

    def __init__(self, method: str, client: str, pace: TokenPace, traceparent: str | None = None) -> None:
        self.method = method
        self.client = client
        self.pace = pace
        self.traceparent = traceparent
        self.arrived = time.monotonic()
        self.arrived_ns = time.time_ns()
        self.ended = 0.0
        self.code = ""
        self.request_id = ""
        self.request_bytes = 0
        self.model = ""
        self.first = 0.0
        self.tokens = 0
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.finish_reason: FinishReason | None = None
        self.span: Span | None = None
        self._last = 0.0

    @property
    def seconds(self) -> float:
        """From arrival to the end."""
        return self.ended - self.arrived

    @property
    def first_token(self) -> float | None:
        """Seconds from arrival to the first piece of the answer; None while there is none."""
        return self.first - self.arrived if self.first else None

    # -- told by the service

    def asked(self, request: GenerateRequest | ScoreRequest | EncodeRequest) -> None:
        """Note whose request it is, and its name."""
        self.client = request.client or self.client
        self.request_id = request.request_id

    def saw(self, event: Event) -> None:
        """Note an event that is sent."""
        if isinstance(event, Delta):
            self._written(event.tokens)
        elif isinstance(event, Finished):
            self.finish_reason, self.timings, self.usage = event.finish_reason, event.timings, event.usage
        elif isinstance(event, Started):
            self.model = event.model

    def used(self, usage: Usage, model: str) -> None:
        """Note what a call without a stream has used."""
        self.usage, self.model = usage, model

    def _written(self, tokens: int) -> None:
        now = time.monotonic()
        if self.first:
            shares = tokens or 1
            self.pace.gaps.add((now - self._last) / shares, shares)
        else:
            self.first = now
            self.pace.firsts.add(now - self.arrived)
        self._last = now
        self._count(tokens)

    def _count(self, tokens: int) -> None:
        self.tokens += tokens
        self.pace.tokens += tokens


class Unobserved:
    """Stands where nobody watches."""

    __slots__ = ()

    def asked(self, request: GenerateRequest | ScoreRequest | EncodeRequest) -> None:
        """Note nothing."""

    def saw(self, event: Event) -> None:
        """Note nothing."""

    def used(self, usage: Usage, model: str) -> None:
        """Note nothing."""


class Watcher(Protocol):
    """An observer of calls: metrics, the log or traces. In the event loop; must neither wait nor raise."""

    def began(self, seen: Observation) -> None:
        """Learn of a call that has come."""
        ...

    def ended(self, seen: Observation) -> None:
        """Learn how it ended."""
        ...


NOBODY = Unobserved()
CURRENT: ContextVar[Observation | Unobserved] = ContextVar("crayon_observation", default=NOBODY)


def observed() -> Observation | Unobserved:
    """Return where to note what becomes of the call that this task answers."""
    return CURRENT.get()
