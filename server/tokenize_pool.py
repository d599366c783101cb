"""A thread that tokenizes long texts, so that they do not hold up the event loop and everybody else's answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from crayon.errors import DeadlineExceededError, OverloadedError
from crayon.server.scheduler.queue_limits import CLIENT_FACTOR

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
# Long requests that wait for the thread, and their characters: four of the largest. The engine's queue comes after it.
MOST_WAITING = 64
MOST_CHARACTERS = 16 * 2**20
RETRY_S = 1.0


@dataclass(slots=True, eq=False)
class _Job:
    """One request that waits: what starts it, and where the result goes."""

    start: Callable[[], Any]
    characters: int
    client: str
    deadline: float | None
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[Any]
    gone: bool = False
    """Whether nobody wants it any more. Under the lock."""


class TokenizePool:
    """Starts requests: short ones at once, long ones in a thread, one after the other, the clients in turn.

    The client for whom fewest characters were read so far is next. A client may hold `CLIENT_FACTOR` times as much of
    the waiting room as is free, in requests and in characters, so that others always find some.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="crayon-prepare")
        self._lock = threading.Lock()
        self._jobs: dict[str, deque[_Job]] = {}
        """By client, nobody's is empty."""
        self._read: dict[str, int] = {}
        """Characters read, by client, of those that wait or are read."""
        self._requests: Counter[str] = Counter()
        self._characters: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Long requests that are being started, or wait for it."""
        return self._requests.total()

    async def run(
        self, start: Callable[[], Started], characters: int, deadline: float | None, client: str = ""
    ) -> Started:
        """Return what `start` returns; if this is cancelled meanwhile, that is cancelled as soon as it is there.

        Args:
            start: hands a request to the engine.
            characters: how much text it has to turn into tokens.
            deadline: `time.monotonic()` after which it is not started any more.
            client: whose it is.

        Raises:
            OverloadedError: too many long requests wait, or too many of this client.
            DeadlineExceededError: the deadline passed before its turn came.
            CrayonError: what `start` raises.
        """
        if characters < LONG_CHARACTERS:
            return start()
        loop = asyncio.get_running_loop()
        job = _Job(start, characters, client, deadline, loop, loop.create_future())
        with self._lock:
            self._enter(job)
        self._pool.submit(self._next)
        try:
            result: Started = await job.result
        except asyncio.CancelledError:
            with self._lock:
                job.gone = True
            raise
        return result

    def _enter(self, job: _Job) -> None:
        client, waiting, characters = job.client, self.waiting, self._characters.total()
        free = MOST_CHARACTERS - characters
        if waiting >= MOST_WAITING or (waiting and job.characters > free):
            raise OverloadedError(f"{waiting} long requests are being read already", RETRY_S)
        mine = self._requests[client]
        if client and mine:
            held = self._characters[client]
            if mine >= CLIENT_FACTOR * (MOST_WAITING - waiting) or held >= CLIENT_FACTOR * free:
                raise OverloadedError(f"{mine} long requests of this client are being read already", RETRY_S, client)
        if not mine:
            # A client that comes after a pause has saved nothing up.
            floor = min((self._read[other] for other in self._requests if self._requests[other]), default=0)
            self._read[client] = max(self._read.get(client, 0), floor)
        self._requests[client] += 1
        self._characters[client] += job.characters
        self._jobs.setdefault(client, deque()).append(job)

    def _next(self) -> None:
        """Start the request whose turn it is. In the thread; once for each request."""
        with self._lock:
            client = min(self._jobs, key=lambda name: self._read[name])
            job = self._jobs[client].popleft()
            if not self._jobs[client]:
                del self._jobs[client]
            gone = job.gone
        started: Cancellable | None = None
        failure: Exception | None = None
        if not gone:
            try:
                if job.deadline is not None and time.monotonic() >= job.deadline:
                    raise DeadlineExceededError("the deadline passed before the request was read")
                with self._lock:
                    self._read[client] += job.characters
                started = job.start()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the caller
                failure = error
        with self._lock:
            self._leave(job)
        self._tell(job, started, failure)

    def _leave(self, job: _Job) -> None:
        self._requests[job.client] -= 1
        self._characters[job.client] -= job.characters
        if not self._requests[job.client]:
            del self._requests[job.client], self._characters[job.client]
        if not self._requests:
            self._read.clear()

    def _tell(self, job: _Job, started: Cancellable | None, failure: Exception | None) -> None:
        def tell() -> None:
            if job.result.done():  # the caller has left
                if started is not None:
                    started.cancel()
            elif failure is not None:
                job.result.set_exception(failure)
            else:
                job.result.set_result(started)

        try:
            job.loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the server has ended meanwhile
            if started is not None:
                started.cancel()
