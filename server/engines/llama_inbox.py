"""What callers' threads and the engine's thread share: requests on their way in, cancellations, and the end."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from crayon.errors import EngineClosedError, EngineError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crayon.errors import CrayonError
    from crayon.server.engines.llama_task import Task

_MAX_RETRY_S = 60.0


class Inbox:
    """A bounded queue, and a switch that ends everything.

    Args:
        max_queue: most requests waiting.
        abort: stops what is being computed; called under the lock, from any thread.
        seconds_per_token: how long a token takes, for who is told to come back later.
    """

    def __init__(self, max_queue: int, abort: Callable[[], None], seconds_per_token: Callable[[], float]) -> None:
        self.wake = threading.Condition()
        # Below: under the lock.
        self.queued = 0
        self.queued_tokens = 0
        self.current: tuple[Task, ...] = ()
        """Whose rows are being computed."""
        self.closing = False
        self._max_queue = max_queue
        self._abort = abort
        self._seconds_per_token = seconds_per_token
        self._fresh: deque[Task] = deque()
        self._cancelled: set[str] = set()
        self._failure: EngineError | None = None
        self._watchers: list[Callable[[CrayonError], None]] = []

    # -- from any thread

    def submit(self, task: Task) -> None:
        """Queue a task.

        Raises:
            OverloadedError: `max_queue` requests wait already.
            EngineClosedError: the engine was closed.
            EngineError: the engine has failed.
        """
        with self.wake:
            if self._failure is not None:
                raise EngineError(str(self._failure))  # a new one: a raised error keeps its caller's frames
            if self.closing:
                raise EngineClosedError("the engine is closed")
            if self.queued >= self._max_queue:
                wait = min(max(self._seconds_per_token() * self.queued_tokens, 1.0), _MAX_RETRY_S)
                raise OverloadedError(f"{self.queued} requests are waiting already", retry_after=round(wait, 1))
            self.queued += 1
            self.queued_tokens += task.request.kv_need()
            self._fresh.append(task)
            self.wake.notify()

    def cancel(self, task: Task) -> None:
        """End a task that its caller has given up; a running step stops if nobody wants it any more."""
        with self.wake:
            self._cancelled.add(task.request.id)
            if self.current and all(other.cancelled for other in self.current):
                self._abort()
            self.wake.notify()

    def on_failure(self, tell: Callable[[CrayonError], None]) -> None:
        """Call `tell` once, from the engine's thread, if it fails; at once if it has."""
        with self.wake:
            failure = self._failure
            if failure is None:
                self._watchers.append(tell)
        if failure is not None:
            tell(failure)

    def close(self) -> None:
        """Let nobody in any more, and stop what is being computed."""
        with self.wake:
            self.closing = True
            self._abort()
            self.wake.notify()

    # -- from the engine's thread

    def take(self, *, busy: bool) -> tuple[list[Task], set[str]] | None:
        """Return who came and who was cancelled, None once closed; sleep until there is something, unless `busy`."""
        with self.wake:
            while not (self.closing or self._fresh or busy):
                self._cancelled.clear()
                self.wake.wait()
            if self.closing:
                return None
            fresh, gone = list(self._fresh), self._cancelled
            self._fresh.clear()
            self._cancelled = set()
        return fresh, gone

    def left(self, task: Task) -> None:
        """Note that a task waits no more."""
        with self.wake:
            self.queued -= 1
            self.queued_tokens -= task.request.kv_need()

    def end(self, running: Iterable[Task], failure: EngineError | None) -> None:
        """Fail all that is left, and tell those who watch if it is for a failure."""
        with self.wake:
            self.closing = True
            self._failure = failure
            watchers, self._watchers = self._watchers, []
            left = [*running, *self._fresh]
            self._fresh.clear()
        for task in left:
            task.close()
            task.fail(failure or EngineClosedError("the engine was closed"))
        if failure is not None:
            for tell in watchers:
                tell(failure)
