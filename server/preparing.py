"""Turning long texts into tokens beside the event loop, so that they hold up nobody else's answers."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

from crayon.errors import DeadlineExceededError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable


class Cancellable(Protocol):
    """What an engine returns: a stream, or a future."""

    def cancel(self) -> object:
        """Tell the engine that nobody wants it any more."""
        ...


Started = TypeVar("Started", bound=Cancellable)

# Tokenising takes some 0.7 microseconds a character (SmolLM2's vocabulary; 0.6 s for a million): what is below a
# millisecond is not worth the hand-over to a thread and back.
LONG_CHARACTERS = 1024
# One is enough to keep the engine fed; more would take cores from it, and long prompts are not to be faster than short.
THREADS = 1
# Long requests that wait for the thread, each of up to 4 MiB. The engine's own queue comes after it.
MOST_WAITING = 64
RETRY_S = 1.0


class Preparing:
    """Starts requests: short ones at once, long ones in a thread, one after the other."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="crayon-prepare")
        self._lock = threading.Lock()
        self.waiting = 0
        """Long requests that are being started, or wait for it."""

    async def run(self, start: Callable[[], Started], characters: int, deadline: float | None) -> Started:
        """Return what `start` returns; if this is cancelled meanwhile, that is cancelled as soon as it is there.

        Args:
            start: hands a request to the engine.
            characters: how much text it has to turn into tokens.
            deadline: `time.monotonic()` after which it is not started any more.

        Raises:
            OverloadedError: too many long requests wait.
            DeadlineExceededError: the deadline passed before its turn came.
            CrayonError: what `start` raises.
        """
        if characters < LONG_CHARACTERS:
            return start()
        if self.waiting >= MOST_WAITING:
            raise OverloadedError(f"{self.waiting} long requests are being read already", RETRY_S)

        gone = threading.Event()

        def started() -> Started:
            if gone.is_set() or (deadline is not None and time.monotonic() >= deadline):
                raise DeadlineExceededError("the deadline passed before the request was read")
            return start()

        running = self._pool.submit(started)
        loop = asyncio.get_running_loop()
        with self._lock:
            self.waiting += 1
        running.add_done_callback(self._done)
        try:
            return await asyncio.shield(asyncio.wrap_future(running, loop=loop))
        except asyncio.CancelledError:
            gone.set()
            running.add_done_callback(_give_up)
            raise

    def _done(self, _: Future[Started]) -> None:
        with self._lock:
            self.waiting -= 1


def _give_up(done: Future[Started]) -> None:
    if done.exception() is None:
        done.result().cancel()
