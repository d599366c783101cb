"""The one thread that owns the llama.cpp context: take in, plan, decode, sample, hand out, commit."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from crayon.errors import (
    AbortedError,
    CrayonError,
    EngineClosedError,
    EngineError,
    OverloadedError,
    fault_report,
)
from crayon.server.engines.llama_task import EncodeTask, GenerateTask, ScoreTask
from crayon.server.scheduler import LinearCost, Outcome, Resource, State, commit, plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.blending.lease import Lease
    from crayon.llama.batch import Batch, Logits
    from crayon.llama.context import Context
    from crayon.server.engines.llama_encoder import LlamaEncoder
    from crayon.server.engines.llama_task import Task
    from crayon.server.scheduler import Caps, NanoBatch, Row, StepPlan

logger = logging.getLogger("crayon.server.llama")

_MAX_RETRY_S = 60.0


class LlamaLoop:
    """Runs tasks on a context until closed.

    Args:
        context: the main context; only this loop's thread computes on it.
        batch: at least `caps.max_tokens` rows.
        caps: limits of a step.
        encoder: the encoder, or None while nobody has asked for embeddings.
        max_queue: most requests waiting.
    """

    def __init__(
        self,
        context: Context,
        batch: Batch,
        caps: Caps,
        encoder: Callable[[], LlamaEncoder | None],
        max_queue: int,
    ) -> None:
        self._context = context
        self._batch = batch
        self._caps = caps
        self._encoder = encoder
        self._max_queue = max_queue
        self._cost = LinearCost()
        self._state = State()
        self._tasks: dict[str, Task] = {}
        self._wake = threading.Condition()
        # Below: shared between threads, under the lock.
        self._intake: deque[Task] = deque()
        self._cancelled: set[str] = set()
        self._current: tuple[Task, ...] = ()
        self._queued = 0
        self._queued_tokens = 0
        self._closing = False
        self._failure: EngineError | None = None
        self._watchers: list[Callable[[CrayonError], None]] = []
        self._thread = threading.Thread(target=self._run, name="crayon-llama", daemon=True)
        self._thread.start()
        # A thread that computes while the process ends would run in libraries that are already torn down.
        atexit.register(self.close)

    # -- from any thread

    def submit(self, task: Task) -> None:
        """Queue a task.

        Raises:
            OverloadedError: `max_queue` requests wait already.
            EngineClosedError: the loop was closed.
            EngineError: the loop has failed.
        """
        with self._wake:
            if self._failure is not None:
                raise EngineError(str(self._failure))  # a new one: a raised error keeps its caller's frames
            if self._closing:
                raise EngineClosedError("the engine is closed")
            if self._queued >= self._max_queue:
                wait = min(max(self._cost.per_token * self._queued_tokens, 1.0), _MAX_RETRY_S)
                raise OverloadedError(f"{self._queued} requests are waiting already", retry_after=round(wait, 1))
            self._queued += 1
            self._queued_tokens += task.request.kv_need()
            self._intake.append(task)
            self._wake.notify()

    def cancel(self, task: Task) -> None:
        """End a task that its caller has given up; a running step stops if nobody wants it any more."""
        with self._wake:
            self._cancelled.add(task.request.id)
            if self._current and all(other.cancelled for other in self._current):
                self._abort()
            self._wake.notify()

    def on_failure(self, tell: Callable[[CrayonError], None]) -> None:
        """Call `tell` once, from the loop's thread, if the loop fails; at once if it has."""
        with self._wake:
            failure = self._failure
            if failure is None:
                self._watchers.append(tell)
        if failure is not None:
            tell(failure)

    def close(self) -> None:
        """Fail everything that waits or runs, and end the thread."""
        with self._wake:
            self._closing = True
            self._abort()
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self.close)

    def _abort(self) -> None:
        self._context.abort()
        encoder = self._encoder()
        if encoder is not None:
            encoder.context.abort()

    # -- on the loop's thread

    def _run(self) -> None:
        failure: EngineError | None = None
        try:
            while self._take_in():
                self._step()
        except Exception as fault:  # noqa: BLE001 - whatever it is, nobody may be left waiting for ever
            logger.critical("the engine's loop failed: %s", fault_report(fault))
            failure = EngineError(f"the engine failed ({type(fault).__name__}); its log says where")
        with self._wake:
            self._closing = True
            self._failure = failure
            watchers, self._watchers = self._watchers, []
            left = [*self._tasks.values(), *self._intake]
            self._intake.clear()
        self._tasks.clear()
        for task in left:
            task.close()
            task.fail(failure or EngineClosedError("the engine was closed"))
        if failure is not None:
            for tell in watchers:
                tell(failure)

    def _take_in(self) -> bool:
        """Sleep until there is work, then take it in; return False once closed."""
        with self._wake:
            while not (self._closing or self._intake or len(self._state)):
                self._cancelled.clear()
                self._wake.wait()
            if self._closing:
                return False
            fresh, gone = list(self._intake), self._cancelled
            self._intake.clear()
            self._cancelled = set()
        for task in fresh:
            try:
                self._state.add(task.request)
            except CrayonError as error:
                self._leave_queue(task)
                task.fail(error)
            else:
                self._tasks[task.request.id] = task
        for request_id in gone:
            self._state.cancel(request_id)
        self._state.now = time.monotonic()
        return True

    def _step(self) -> None:
        step = plan(self._state, self._caps, self._cost)
        for drop in step.drops:
            task = self._tasks.pop(drop.request)
            if task.started is None:
                self._leave_queue(task)
            task.close()
            task.drop(drop.reason)
        for admission in step.admissions:
            task = self._tasks[admission.request]
            self._leave_queue(task)
            task.start()
        self._arrange(step)
        ran, ended = self._compute(step)
        changes = commit(self._state, step, Outcome(ran, frozenset(ended)))
        for request_id in changes.finished:
            task = self._tasks.pop(request_id)
            task.close()
            try:
                task.finish()
            except Exception as error:  # noqa: BLE001 - the loop must survive any fault of one request
                task.fail(_reported(error, 1))

    def _leave_queue(self, task: Task) -> None:
        with self._wake:
            self._queued -= 1
            self._queued_tokens -= task.request.kv_need()

    def _arrange(self, step: StepPlan) -> None:
        """Empty, cut and copy sequences as planned."""
        encoder = self._encoder()
        contexts = [self._context] if encoder is None else [self._context, encoder.context]
        for op in step.kv:
            for context in contexts:
                if op.seq == op.source:
                    context.remove(op.seq, op.keep)
                else:
                    context.remove(op.seq)
                    if op.keep:
                        context.copy(op.source, op.seq, 0, op.keep)

    def _compute(self, step: StepPlan) -> tuple[int, set[str]]:
        """Run the nano-batches; return how many were run and whose answers ended."""
        ran = 0
        ended: set[str] = set()
        for call in step.calls():
            rows = [row for nano in call for row in nano.rows]
            try:
                self._call(call, rows, ended)
            except AbortedError:
                break  # everybody in it has given up: the next plan drops them, the rest is planned again
            except Exception as error:  # noqa: BLE001 - the loop must survive any fault of one step
                self._give_up(rows, error)
                break
            ran += len(call)
        return ran, ended

    def _call(self, call: tuple[NanoBatch, ...], rows: list[Row], ended: set[str]) -> None:
        tasks = [self._tasks[row.request] for row in rows]
        batch = self._batch
        batch.clear()
        spans = [
            batch.add(task.tokens(row), row.start, row.seq, _wanted(row)) for task, row in zip(tasks, rows, strict=True)
        ]
        encode = call[0].resource is Resource.ENCODE
        encoder = self._encoder() if encode else None
        context = encoder.context if encoder is not None else self._context
        if encoder is None:
            context.set_adapters(_adapters(tasks))
        with self._wake:
            if self._closing or all(task.cancelled for task in tasks):
                raise AbortedError("nobody wants this step")
            context.clear_abort()
            self._current = tuple(tasks)
        begun = time.monotonic()
        try:
            if encoder is not None:
                states = encoder.decode(batch)
            else:
                context.decode(batch)
        finally:
            with self._wake:
                self._current = ()
        if encoder is None:
            self._cost = self._cost.observed(batch.size, time.monotonic() - begun)
        for task, row, span in zip(tasks, rows, spans, strict=True):
            try:
                if isinstance(task, EncodeTask):
                    task.read(states[span.start : span.stop], row)
                elif isinstance(task, ScoreTask):
                    task.read(context, row, span)
                elif isinstance(task, GenerateTask) and row.logits and task.sample(context, span[-1]):
                    ended.add(row.request)
            except Exception as error:  # noqa: BLE001 - its batch mates are not to suffer
                self._give_up([row], error)

    def _give_up(self, rows: list[Row], error: Exception) -> None:
        """Fail the requests of these rows; the next plan drops them."""
        said = _reported(error, len(rows))
        for request_id in {row.request for row in rows}:
            self._tasks[request_id].fail(said)
            self._state.cancel(request_id)


def _adapters(tasks: list[Task]) -> Lease:
    """Return the adapters that all tasks of one engine call compute with; each task holds them from now on.

    Raises:
        EngineError: the plan put different blends into one call.
        CrayonError: the adapters cannot be loaded.
    """
    if len({task.request.blend for task in tasks}) != 1:
        raise EngineError("a step was planned with more than one blend in an engine call")
    held = [task.adapters() for task in tasks]
    return held[0]


def _wanted(row: Row) -> Logits:
    if not row.logits:
        return "none"
    return "all" if row.logits == row.tokens else "last"


def _reported(error: Exception, rows: int) -> CrayonError:
    """Log what failed and return what its callers are told."""
    if isinstance(error, CrayonError):
        logger.error("%d rows failed: %s", rows, error)  # no trace: it is llama.cpp's
        return error
    logger.error("%d rows failed: %s", rows, fault_report(error))
    return EngineError(f"the request could not be computed ({type(error).__name__}); the engine's log says where")
