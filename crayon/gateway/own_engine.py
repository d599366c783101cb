"""A server's own engine behind HTTP: for each caller by name, charged for what was computed, out of the loop's way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from crayon.engine import Stream
from crayon.errors import CrayonError, EngineError, fault_report
from crayon.server.caller import Meter, current_caller

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Future

    from crayon.engine import (
        EncodeRequest,
        EncodeResult,
        Engine,
        Event,
        GenerateRequest,
        ModelInfo,
        ScoreRequest,
        ScoreResult,
    )
    from crayon.server.caller import Caller

Done = TypeVar("Done", bound="Future[Any]")

# Longer prompts are made tokens of in a thread: the loop answers all the others meanwhile.
LONG_CHARACTERS = 8192
_THREADS = 2
_AT_ONCE = 64


class OwnEngine:
    """Hands requests to a server's engine as those of the caller whose task asks; closing it leaves the engine open.

    Args:
        engine: the server's.
        loop: where callers are charged; limits are for one thread.
        max_deadline: most seconds that a request may take, whatever it says.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, max_deadline: float) -> None:
        self._engine = engine
        self._max_deadline = max_deadline
        self._loop = loop
        self._long = ThreadPoolExecutor(_THREADS, "crayon-http-prompts")

    def models(self) -> tuple[ModelInfo, ...]:
        """Return what is served."""
        return self._engine.models()

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer."""
        caller = current_caller()
        characters = sum(len(message.content) for message in request.messages)
        relay = _Relay(self._loop, caller, characters)
        latest = time.monotonic() + self._max_deadline
        until = latest if request.deadline is None else min(request.deadline, latest)
        start = self._begin(replace(request, client=caller.name, deadline=until), relay)
        if characters > LONG_CHARACTERS:
            self._long.submit(start)
        else:
            start()
        return relay.stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Score continuations."""
        caller = current_caller()
        return self._charged(caller, self._engine.score(replace(request, client=caller.name)))

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Embed texts."""
        caller = current_caller()
        return self._charged(caller, self._engine.encode(replace(request, client=caller.name)))

    def close(self) -> None:
        """Leave the engine to its server."""
        self._long.shutdown(wait=False, cancel_futures=True)

    def _begin(self, request: GenerateRequest, relay: _Relay) -> Callable[[], None]:
        def start() -> None:
            try:
                relay.follow(self._engine.generate(request))
            except CrayonError as error:
                relay.stream.fail(error)
            except Exception as error:  # noqa: BLE001 - in a thread nobody else would hear of it
                relay.stream.fail(EngineError(f"the engine did not start an answer: {fault_report(error)}"))

        return start

    def _charged(self, caller: Caller, future: Done) -> Done:
        def done(result: Future[Any]) -> None:
            if not result.cancelled() and result.exception() is None:
                _in_loop(self._loop, lambda: caller.pay(result.result().usage))

        future.add_done_callback(done)
        return future


class _Relay:
    """Gives a stream's events on to another one, and charges for them at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, caller: Caller, characters: int) -> None:
        self.stream = Stream(on_cancel=self._cancel)
        self._loop = loop
        self._meter = Meter(caller, characters)
        self._lock = threading.Lock()
        self._inner: Stream | None = None
        self._charged = False

    def follow(self, inner: Stream) -> None:
        """Give `inner` on from now."""
        with self._lock:
            self._inner = inner
            cancelled = self.stream.cancelled
        if cancelled:
            inner.cancel()
        inner.watch(self._pump)

    def _pump(self) -> None:
        inner = self._inner
        if inner is None:
            return
        more = True
        while more:
            events, error = inner.take(_AT_ONCE)
            for event in events:
                self._give(event)
            more = bool(events)
            if error is not None:
                self._charge()
                self.stream.fail(error)
        if inner.over:
            self._charge()

    def _give(self, event: Event) -> None:
        self._meter.see(event)
        self.stream.push(event)

    def _cancel(self) -> None:
        with self._lock:
            inner = self._inner
        if inner is not None:
            inner.cancel()

    def _charge(self) -> None:
        with self._lock:
            charged, self._charged = self._charged, True
        if not charged:
            _in_loop(self._loop, self._meter.__exit__)


def _in_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)
