"""What callers' threads and the engine's thread share: requests on their way in, cancellations, and the end."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from crayon.errors import DeadlineExceededError, EngineClosedError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crayon.errors import CrayonError
    from crayon.server.engines.llama.tasks import Task
    from crayon.server.scheduler.queue_limits import QueueBounds


class RequestQueue:
    """A bounded queue, and a switch that ends everything.

    Args:
        bounds: how much may wait.
        abort: stops what is being computed; called under the lock, from any thread.
        seconds_per_token: how long a token takes; from it a refused caller is told when to come back.
    """

    def __init__(self, bounds: QueueBounds, abort: Callable[[], None], seconds_per_token: Callable[[], float]) -> None:
        self.wake = threading.Condition()
        # Below: under the lock.
        self.bounds = bounds
        self.current: tuple[Task, ...] = ()
        """Whose rows are being computed."""
        self.closing = False
        self._abort = abort
        self._seconds_per_token = seconds_per_token
        self._fresh: deque[Task] = deque()
        self._cancelled: set[str] = set()
        self._failure: EngineError | None = None
        self._watchers: list[Callable[[CrayonError], None]] = []

    # -- from any thread

    def submit(self, task: Task) -> None:
        """Queue a task; one whose deadline has passed fails instead.

        Raises:
            OverloadedError: too much waits already.
            EngineClosedError: the engine was closed.
            EngineError: the engine has failed.
        """
        with self.wake:
            if self._failure is not None:
                raise EngineError(str(self._failure))  # a new one: a raised error keeps its caller's frames
            if self.closing:
                raise EngineClosedError("the engine is closed")
            now = time.monotonic()
            if task.entry.deadline is not None and now >= task.entry.deadline:
                self.bounds.refused["deadline"] += 1
                task.fail(DeadlineExceededError("the deadline passed before the request was queued"))
                return
            self.bounds.enter(task.entry, now, self._seconds_per_token())
            self._fresh.append(task)
            self.wake.notify()

    def cancel(self, task: Task) -> None:
        """End a task that its caller has given up; a running step stops if nobody wants it any more."""
        with self.wake:
            self._cancelled.add(task.entry.id)
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
        """Return new tasks and cancelled ids, None once closed; sleep until there is something, unless `busy`."""
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

    def dequeued(self, task: Task) -> None:
        """Note that a task waits no more."""
        with self.wake:
            self.bounds.leave(task.entry, time.monotonic())

    def end(self, running: Iterable[Task], failure: EngineError | None) -> None:
        """Fail all tasks that are left; after a failure, call those that `on_failure` registered."""
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
