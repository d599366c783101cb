"""The events of one answer on their way from an engine's thread to one reader; a promise does it for one result."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar

from crayon.errors import CancelledError, CrayonError, EngineClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.completion import Blend, FinishReason, Timings, Usage
    from crayon.messages import ToolCall
    from crayon.token_options import TokenLogprob


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
        self._watcher: Callable[[], None] | None = None
        self._closed = False  # no more will be pushed
        self.cancelled = False
        self._process = os.getpid()

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
            if last:  # who keeps an answer that has ended does not keep its engine
                self._on_cancel = None

    def _wake(self) -> None:
        self._ready.notify_all()
        if self._watcher is not None:
            self._watcher()
        if self._waiter is not None:
            loop, future = self._waiter
            self._waiter = None
            # The loop may have been closed, maybe this very moment, under a reader that gave up.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, future)

    # -- reader side

    def cancel(self) -> None:
        """End the generation early. Safe to call at any time, twice, and from any thread."""
        if os.getpid() != self._process:  # forked: the lock may be held by a thread that is not here
            return
        with self._ready:
            already, on_cancel = self.cancelled, self._on_cancel
            self.cancelled = True
        if not already and on_cancel is not None:
            on_cancel()
        self.fail(CancelledError("the caller cancelled"))

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` at each event from now on, and at once if there is one: for who reads with `take`.

        It is called from the engine's thread, which waits for it: it must only take a note.
        """
        with self._ready:
            self._watcher = watcher
            if self._events or self._closed:
                watcher()

    def take(self, most: int) -> tuple[list[Event], CrayonError | None]:
        """Return what is there, at most so many events, and the failure if that comes next. Never waits."""
        taken: list[Event] = []
        with self._ready:
            while self._events and len(taken) < most:
                item = self._events.popleft()
                if isinstance(item, CrayonError):
                    return taken, item
                taken.append(item)
        return taken, None

    @property
    def over(self) -> bool:
        """Whether the last event was pushed and read."""
        with self._ready:
            return self._closed and not self._events

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        self._check_fork()
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
        self._check_fork()
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
        self._check_fork()
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

    def _check_fork(self) -> None:
        # Nobody writes here in a forked process: who waited would wait for ever.
        if os.getpid() != self._process:
            raise EngineClosedError("the answer was begun before the process forked; only the parent can read it")

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


@dataclass(frozen=True, slots=True)
class TokenSignal:
    """What the model thought of one token it wrote, from its unmodified distribution (natural logarithms).

    `logprob` of the token taken, `entropy` of the whole distribution, `margin` between its two largest probabilities,
    `withheld`: the probability of all tokens that the request's constraint did not allow (0 without one).
    """

    logprob: float
    entropy: float
    margin: float
    withheld: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """First event: the request has left the queue. `constrained`: its constraint is kept, where it has one.

    `kept` names the fields of the request that not every engine knows and this one keeps to (`crayon.engine.needs`).
    """

    request_id: str
    model: str
    blend: Blend | None = None
    constrained: bool = False
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer. `text` is always whole characters; a token may add none. One signal a token, if wanted.

    `tokens` were written since the last Delta; none where only text came that had been held back. Tokens that a
    constraint left no choice about have no signal: the model was not asked. `reasoning` is what the model thought,
    which is no part of the answer and has no signals; `calls` are tool calls that are complete. `logprobs` are of the
    answer's tokens, also of those whose text is held back, where the request wants them.
    """

    text: str
    signals: tuple[TokenSignal, ...] = ()
    tokens: int = 1
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of an answer that succeeded."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Event: TypeAlias = Started | Delta | Finished


Result = TypeVar("Result")


class Work(Future[Result]):
    """A future that tells what was done for it, from any thread."""

    used: Callable[[], int] = staticmethod(lambda: 0)
    """Tokens that were computed for it so far, whether its result is wanted or not."""


class Promise(Generic[Result]):
    """What `Stream` is to an answer: the engine's side of a future. One thread of the engine's keeps it.

    Args:
        on_cancel: called if the caller cancels the future before it is kept; from any thread.
        used: tells the tokens that were computed for it so far; from any thread.
    """

    def __init__(self, on_cancel: Callable[[], None] | None = None, used: Callable[[], int] | None = None) -> None:
        self.future: Work[Result] = Work()
        if used is not None:
            self.future.used = used
        self._closed = False
        self._on_cancel = on_cancel
        if on_cancel is not None:
            self.future.add_done_callback(self._done)

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants the result. From any thread."""
        return self.future.cancelled()

    def succeed(self, result: Result) -> None:
        """Hand over the result. Ignored after the end."""
        if self._begin_end():
            self.future.set_result(result)

    def fail(self, error: CrayonError) -> None:
        """Hand over an error in its place. Ignored after the end."""
        if self._begin_end():
            self.future.set_exception(error)

    def _done(self, future: Future[Result]) -> None:
        on_cancel, self._on_cancel = self._on_cancel, None  # who keeps a result does not keep its engine
        if on_cancel is not None and future.cancelled():
            on_cancel()

    def _begin_end(self) -> bool:
        """Return whether the caller still waits; from then on it is too late to cancel."""
        if self._closed:
            return False
        self._closed = True
        # For a cancelled future this tells concurrent.futures.wait, which would go on waiting for it.
        return self.future.set_running_or_notify_cancel()
