"""vLLM's `AsyncLLM` on an event loop and a thread of its own: what is asked of it, until it ends or breaks down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from crayon.errors import CancelledError, CrayonError, DeadlineExceededError, EngineClosedError, EngineError
from crayon.server.engines.vllm.errors import is_death, of_request, of_start

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from crayon.server.engines.vllm.tasks import VllmTask

logger = logging.getLogger("crayon.server.vllm")

_LOOK_S = 0.2  # from one look at whether vLLM is still alive to the next, for when nobody asks it anything
_LAST_WORDS_S = 5.0  # for requests to be aborted, and then for vLLM's processes to end, when the engine is closed
BROKEN = "vLLM's engine has broken down; the server has to be started again"


def prepare_environment() -> None:
    """Set what vLLM reads when it is imported, where the user has not: few log lines, and no reports to its makers."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # A fork would copy the locks of gRPC's threads.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


class VllmLoop:
    """Runs jobs beside each other on vLLM.

    Args:
        make: makes the `AsyncLLM`, on the loop.

    Raises:
        EngineError: vLLM does not start.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._jobs: dict[VllmTask, asyncio.Task[None] | None] = {}
        self._closed = False
        self._dead: CrayonError | None = None
        self._tell: list[Callable[[CrayonError], None]] = []
        self._stop = asyncio.Event()
        self.llm: Any = None
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, args=(started,), name="crayon-vllm", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            raise

    @property
    def running(self) -> int:
        """How many jobs there are."""
        return len(self._jobs)

    def check(self) -> None:
        """Raise what keeps everybody from being answered.

        Raises:
            EngineClosedError: the engine is closed.
            EngineError: vLLM has broken down.
        """
        if self._closed:
            raise EngineClosedError("the engine is closed")
        if self._dead is not None:
            raise EngineError(BROKEN)

    def submit(self, job: VllmTask) -> None:
        """Run a job. From any thread; `cancel` may be called as soon as this returns.

        Raises:
            EngineClosedError, EngineError: as `check`.
        """
        with self._lock:
            self.check()
            self._jobs[job] = None
        self._loop.call_soon_threadsafe(self._begin, job)

    def cancel(self, job: VllmTask) -> None:
        """End a job early; its caller is told that it was cancelled. From any thread, at any time."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the job with it
            self._loop.call_soon_threadsafe(self._cancel, job)

    def soon(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Do something on the loop that nobody waits for. From any thread."""

        def begin() -> None:
            if not self._closed and self._dead is None:
                task = self._loop.create_task(work())
                task.add_done_callback(_quietly)

        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(begin)

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine returns; not from the loop's own thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def on_failure(self, tell: Callable[[CrayonError], None]) -> None:
        """Call `tell` once, from any thread, if vLLM breaks down; at once if it has."""
        with self._lock:
            dead = self._dead
            if dead is None:
                self._tell.append(tell)
        if dead is not None:
            tell(dead)

    def close(self) -> None:
        """End every job, vLLM's processes and the thread. Safe to call twice."""
        with self._lock:
            self._closed = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not threading.current_thread():
            self._thread.join()

    # -- on the loop

    def _main(self, started: Future[None]) -> None:
        # vLLM's processes inherit the mask: Ctrl-C in a terminal is for the server, which lets answers end first.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(started))
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self, started: Future[None]) -> None:
        try:
            self.llm = self._make()
        except BaseException as error:  # noqa: BLE001 - raised again where the engine is made
            started.set_exception(of_start(error))
            return
        started.set_result(None)
        try:
            while not self._stop.is_set():
                if self._dead is None and self.llm.errored:
                    self._die()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _LOOK_S)
        finally:
            await self._end()

    async def _end(self) -> None:
        with self._lock:
            jobs = dict(self._jobs)
        for job, task in jobs.items():
            job.fail(EngineClosedError("the engine was closed"))
            if task is not None:
                task.cancel()
        tasks = [task for task in jobs.values() if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS_S)
        try:
            self.llm.shutdown(timeout=_LAST_WORDS_S)
        except Exception as error:  # noqa: BLE001 - it is gone in any case
            logger.warning("vLLM did not end by itself (%s)", type(error).__name__)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for each in rest:
            each.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _begin(self, job: VllmTask) -> None:
        if self._closed:
            job.fail(EngineClosedError("the engine was closed"))
            job.close()
            self._jobs.pop(job, None)
            return
        task = self._loop.create_task(self._run(job))
        self._jobs[job] = task
        if job.cancelled:
            task.cancel()

    def _cancel(self, job: VllmTask) -> None:
        task = self._jobs.get(job)
        if task is not None:
            task.cancel()

    async def _run(self, job: VllmTask) -> None:
        try:
            if job.deadline is not None and job.deadline <= time.monotonic():
                raise DeadlineExceededError
            async with asyncio.timeout_at(job.deadline):  # the loop's clock is time.monotonic
                await job.work()
        except asyncio.CancelledError:
            closed = self._closed
            job.fail(EngineClosedError("the engine was closed") if closed else CancelledError("the caller cancelled"))
        except TimeoutError:
            job.fail(DeadlineExceededError("the deadline passed while the answer was being made", job.partial))
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller is told
            if is_death(error):
                self._die()
            job.fail(of_request(error))
        finally:
            job.close()
            self._jobs.pop(job, None)

    def _die(self) -> None:
        with self._lock:
            if self._dead is not None or self._closed:
                return
            dead = self._dead = EngineError(BROKEN)
            tell, self._tell = self._tell, []
        logger.critical("vLLM's engine has broken down")
        for each in tell:
            each(dead)


def _quietly(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("vLLM refused to be tidied up (%s)", type(error).__name__)
