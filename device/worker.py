"""The device's one compute thread: runs jobs step by step, in turn."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from crayon.errors import (
    AbortedError,
    CancelledError,
    CrayonError,
    EngineClosedError,
    EngineError,
    OverloadedError,
    fault_report,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.device.job import Job

logger = logging.getLogger("crayon.device")


class Worker:
    """Takes jobs from any thread and gives each one step in turn.

    Args:
        abort: stops the running step at once, from any thread.
        clear_abort: lets steps run again.
        free: frees what steps compute with; called last, by the thread.
        limit: most jobs waiting or running.
    """

    def __init__(
        self,
        *,
        abort: Callable[[], None],
        clear_abort: Callable[[], None],
        free: Callable[[], None] = lambda: None,
        limit: int = 64,
    ) -> None:
        self._abort = abort
        self._clear_abort = clear_abort
        self._free = free
        self._process = os.getpid()
        self._limit = limit
        self._wake = threading.Condition()
        self._incoming: deque[Job] = deque()
        self._jobs: list[Job] = []
        self._current: Job | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="crayon-device", daemon=True)
        self._thread.start()
        # A thread that computes while the process ends would run in libraries that are already torn down.
        atexit.register(self.close)

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that has the thread."""
        return os.getpid() != self._process

    def check_fork(self) -> None:
        """Raise EngineClosedError in a process forked after the thread was started: it is not in this one."""
        if self.forked:
            raise EngineClosedError(
                "the device's model was loaded before the process forked; load it, or make a new client, after forking"
            )

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            EngineClosedError: the worker was closed, or the process forked since.
            OverloadedError: too many jobs wait already.
        """
        self.check_fork()
        with self._wake:
            if self._closing:
                raise EngineClosedError("the device engine is closed")
            if len(self._incoming) + len(self._jobs) >= self._limit:
                raise OverloadedError(f"{self._limit} requests wait for the device already; try again later")
            self._incoming.append(job)
            self._wake.notify()

    def cancelled(self, job: Job) -> None:
        """Note that a job's caller gave up: its running step is stopped, a waiting job is dropped at its turn."""
        if self.forked:
            return
        with self._wake:
            if self._current is job:
                self._abort()
            self._wake.notify()

    def close(self) -> None:
        """Fail what is queued or running, end the thread and wait until all is freed."""
        self.release()
        if threading.current_thread() is not self._thread and not self.forked:
            self._thread.join()

    def release(self) -> None:
        """As `close`, without waiting: from the garbage collector, which may run anywhere."""
        if self.forked:
            return
        with self._wake:
            if not self._closing:
                self._closing = True
                self._abort()
            self._wake.notify()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._free()
            atexit.unregister(self.close)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._incoming or self._jobs or self._closing):
                    self._wake.wait()
                self._jobs.extend(self._incoming)
                self._incoming.clear()
                if self._closing:
                    break
            self._jobs = [job for job in self._jobs if self._step(job)]
        for job in self._jobs:
            self._end(job, EngineClosedError("the device engine was closed"))

    def _step(self, job: Job) -> bool:
        """Give a job one step; return whether it has more to do."""
        reason = job.interrupted()
        if reason is not None:
            self._end(job, reason)
            return False
        if job.steps is None:
            return False
        with self._wake:
            self._current = job
            if not self._closing:
                self._clear_abort()
        try:
            next(job.steps)
        except StopIteration:
            return False
        except AbortedError:
            closed = EngineClosedError("the device engine was closed")
            self._end(job, closed if self._closing else job.interrupted() or CancelledError("the caller cancelled"))
            return False
        except CrayonError as error:
            self._end(job, error)
            return False
        except Exception as error:  # noqa: BLE001 - the thread must survive any fault of one job
            logger.error("a device job failed: %s", fault_report(error))
            self._end(job, EngineError(f"the device engine failed ({type(error).__name__}); its log says where"))
            return False
        finally:
            with self._wake:
                self._current = None
        return True

    def _end(self, job: Job, error: CrayonError) -> None:
        if job.steps is not None:
            try:
                job.steps.close()  # type: ignore[attr-defined]  # the iterators are generators
            except Exception as fault:  # noqa: BLE001 - as above
                logger.error("a device job could not be ended cleanly: %s", fault_report(fault))
        job.fail(error)
