"""The one thread that decides: take in, plan, hand out to the runners, sample, tell, commit."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from crayon.errors import (
    AbortedError,
    CrayonError,
    EngineError,
    KvFullError,
    NotFiniteError,
    fault_report,
)
from crayon.server.cost.online import LiveCost
from crayon.server.engines.llama.background import Background
from crayon.server.engines.llama.batch import call_of, fill, reported, work
from crayon.server.engines.llama.counters import stats_of
from crayon.server.engines.llama.deadlines import DeadlineCheck
from crayon.server.engines.llama.request_queue import RequestQueue
from crayon.server.engines.llama.sampler import sample_rows
from crayon.server.engines.llama.step_timing import StepTiming
from crayon.server.engines.llama.swap import SwapSpace
from crayon.server.engines.llama.tasks import EncodeTask, GenerateTask, ScoreTask
from crayon.server.scheduler import Kind, State, StepOutcome, commit, plan, plan_after
from crayon.server.scheduler.compaction import book, find_move

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from crayon.server.cost.step_cost import StepCost
    from crayon.server.engines.llama.batch import EngineCall
    from crayon.server.engines.llama.encoder import CentredEncoder
    from crayon.server.engines.llama.parts import StepRunners
    from crayon.server.engines.llama.tasks import Task
    from crayon.server.observability.stats import EngineStats
    from crayon.server.scheduler import Lengths, StepLimits, StepPlan, TokenIndex
    from crayon.server.scheduler.queue_limits import QueueBounds
    from crayon.server.steps.step_plan import Restore, Spill

logger = logging.getLogger("crayon.server.llama")

WORTH_AHEAD = 3  # requests; planning fewer takes less time between steps than planning beside them takes from the step


class LlamaLoop:
    """Runs tasks on runners until closed.

    Args:
        runners: where it is computed.
        limits: limits of a step.
        encoder: the encoder, or None while nobody has asked for embeddings.
        bounds: how much may wait.
        lengths: learns how long answers get, and predicts it; None: the worst case is reserved.
        index: which prompts begin alike; None: nothing is shared.
        ahead: whether the next step is planned while one runs.
        cost: what steps cost as far as it was measured; None: nothing is known.
        shared_cells: whether attention runs over all used cells of the cache.
    """

    def __init__(
        self,
        runners: StepRunners,
        limits: StepLimits,
        encoder: Callable[[], CentredEncoder | None],
        bounds: QueueBounds,
        *,
        lengths: Lengths | None = None,
        index: TokenIndex | None = None,
        ahead: bool = True,
        cost: StepCost | None = None,
        shared_cells: bool = False,
    ) -> None:
        self._runners = runners
        self._limits = limits
        self._encoder = encoder
        self._lengths = lengths
        self._index = index
        self._plans_ahead = ahead
        self._cost = LiveCost(cost, shared_cells=shared_cells, most=limits.max_tokens)
        self._deadlines = DeadlineCheck(limits, self._cost, lengths)
        self._timing = StepTiming(limits, self._cost, shared_cells=shared_cells)
        self._state = State()
        self._tasks: dict[str, Task] = {}
        self._swap = SwapSpace()
        self._background = Background()
        self._ahead: StepPlan | None = None
        """The next step, if nothing surprising happens."""
        self._surprised = False
        """Whether this step went otherwise than the plan of the next one took for granted."""
        self._broken: set[str] = set()
        """Requests that have failed within this step."""
        self._forced: dict[str, int] = {}
        """Tokens that follow the ones drawn in this step, of requests whose constraint leaves no choice."""
        self._spoilt = False
        """Whether cells may hold what is no number, of requests that the next plan drops."""
        self.counters = self._timing.counters
        self.queue = RequestQueue(bounds, self._abort, lambda: self._cost.per_token)
        self._process = os.getpid()
        self._ending = threading.RLock()  # the collector may run anywhere
        self._ended = False
        self._free: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="crayon-llama", daemon=True)
        self._thread.start()
        # A thread that computes while the process ends would run in libraries that are already torn down.
        atexit.register(self.close)

    def close(self) -> None:
        """Fail everything that waits or runs, and end the thread."""
        self.queue.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self.close)

    def release(self, free: Callable[[], None]) -> None:
        """As `close`, without waiting: from the garbage collector, which may run anywhere. The thread calls `free`."""
        if os.getpid() != self._process:  # a fork has no such thread
            return
        with self._ending:
            ended = self._ended
            self._free = free
        if ended:
            free()
        else:
            self.queue.close()

    def stats(self, blends: int | None) -> EngineStats:
        """Return the engine's numbers, from any thread; `blends` are in memory."""
        waiting, shares = self.queue.bounds.queued, self._index is not None
        return stats_of(self.counters, self._state, self._limits, waiting=waiting, shares=shares, blends=blends)

    def _abort(self) -> None:
        for runner in self._runners.runners:
            runner.context.abort()
        encoder = self._encoder()
        if encoder is not None:
            encoder.abort()

    # -- on the loop's thread

    def _run(self) -> None:
        failure: EngineError | None = None
        try:
            while self._take_in():
                self._step()
        except Exception as fault:  # noqa: BLE001 - whatever it is, nobody may be left waiting for ever
            logger.critical("the engine's loop failed: %s", fault_report(fault))
            failure = EngineError(f"the engine failed ({type(fault).__name__}); its log says where")
        self._swap.close()
        self._background.close()
        for runner in self._runners.runners:
            runner.close()
        self.queue.end(self._tasks.values(), failure)
        self._tasks.clear()
        with self._ending:
            self._ended = True
            free = self._free
        if free is not None:
            free()
            atexit.unregister(self.close)

    def _take_in(self) -> bool:
        """Sleep until there is work, then take it in; return False once closed."""
        taken = self.queue.take(busy=len(self._state) > 0)
        if taken is None:
            return False
        fresh, gone = taken
        now = time.monotonic()
        for task in fresh:
            try:
                if (refused := self._deadlines.alone(task.entry, now)) is not None:
                    self.counters.refused_late += 1
                    raise refused
                self._state.add(task.entry)
                if self._index is not None:
                    self._index.add(task.entry.id, task.entry.blend, task.prompt_ids)
            except CrayonError as error:
                self.queue.dequeued(task)
                task.fail(error)
            else:
                self._tasks[task.entry.id] = task
        for request_id in gone:
            self._state.cancel(request_id)
        if fresh or gone:
            self._ahead = None
        self._state.now = now
        return True

    def _step(self) -> None:
        begun = time.monotonic()
        step = self._plan()
        self._surprised = False
        self._broken.clear()
        self._forced = {}
        self._begin(step)
        ended = self._compute(step)
        outcome = StepOutcome(ended=frozenset(ended), failed=frozenset(self._broken), forced=self._forced)
        changes = commit(self._state, step, outcome)
        for request_id in changes.finished:
            self._finish(self._tasks.pop(request_id))
        if self._runners.neighbours:
            self._close_gap()
        self.counters.step(step, self._limits, time.monotonic() - begun)
        self._timing.settle()

    def _close_gap(self) -> None:
        """Let an answer move to where the others are."""
        move = find_move(self._state)
        if move is None:
            return
        self._ahead = None

        def copy() -> None:
            for op in move.kv:
                self._runners.apply(op)  # the old place is left only where the new one holds all
            book(self._state, move)
            self.counters.moved += 1

        self._alone(move.request, copy)

    def _plan(self) -> StepPlan:
        """Return the step that was planned ahead, if it still holds, or plan it now."""
        step, self._ahead = self._ahead, None
        if step is not None and not self._surprised:
            due = min((item.deadline for item in self._state if item.deadline is not None), default=None)
            if due is None or due > self._state.now:
                self.counters.planned_ahead += 1
                return step
        return plan(self._state, self._limits, self._cost, self._lengths, self._index)

    def _begin(self, step: StepPlan) -> None:
        """Do everything that a plan wants done before it is computed."""
        for drop in step.drops:
            task = self._tasks.pop(drop.request)
            self._swap.drop(drop.request)
            self._forget(drop.request)
            if task.started is None:
                self.queue.dequeued(task)
            task.close()
            self.counters.dropped(drop.reason, cancelled=task.cancelled)
            task.drop(drop.reason)
        for spill in step.spills:
            self._alone(spill.request, partial(self._set_aside, spill))
        encoder = self._encoder()
        for op in step.kv:
            try:
                self._runners.apply(op)
            except EngineError as error:
                self._lost(op.seq, step, error)
            if encoder is not None and op.keep == 0:
                encoder.forget(op.seq)
        if self._spoilt:
            self._wipe(step)
        for prefix in step.evicted:
            self._forget(prefix.id)
        for restore in step.restores:
            self._alone(restore.request, partial(self._bring_back, restore))
        for admission in step.admissions:
            task = self._tasks[admission.request]
            self.queue.dequeued(task)
            task.start()
            if self._index is not None and task.entry.kind is not Kind.ENCODE:
                self._index.hold(admission.request)
        self.counters.spilled += len(step.spills)
        self.counters.restored += len(step.restores)

    def _lost(self, seq: int, step: StepPlan, error: EngineError) -> None:
        """Fail every request that counts on a sequence that is empty now, against the plan."""
        theirs = {row.request for nano in step.nano for row in nano.rows if row.seq == seq}
        theirs.update(admission.request for admission in step.admissions if seq in admission.seqs)
        theirs.update(item.id for item in self._state.running.values() if any(slot.seq == seq for slot in item.slots))
        theirs -= {drop.request for drop in step.drops}
        if seq in self._state.idle:
            self._state.idle[seq] = self._state.idle[seq]._replace(tokens=0)
        self._give_up(sorted(theirs), error)

    def _wipe(self, step: StepPlan) -> None:
        """Clean all cells, now that the sequences which spoilt them are empty."""
        self._spoilt = False
        for runner in self._runners.runners:
            for seq, error in runner.sequences.wipe().items():
                self._lost(seq, step, error)
        encoder = self._encoder()
        if encoder is not None:
            for seq, error in encoder.wipe().items():
                self._lost(seq, step, error)

    def _set_aside(self, spill: Spill) -> None:
        self._swap.put(spill.request, self._runners.save(spill.seq))

    def _bring_back(self, restore: Restore) -> None:
        self._runners.load(self._state.get(restore.request), restore.seq, self._swap.take(restore.request))

    def _alone(self, request_id: str, work: Callable[[], None]) -> None:
        """Do something for one request that must not harm others."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is that request's alone
            self._give_up([request_id], error)

    def _compute(self, step: StepPlan) -> set[str]:
        """Run the nano-batches; return whose answers ended.

        What fails is given up and counts as run: its requests are dropped by the next plan.
        """
        ended: set[str] = set()
        rounds = self._runners.rounds(step)
        for number, each in enumerate(rounds):
            calls = [call_of(runner, nano, self._tasks, self._broken) for runner, nano in each]
            self._run_round([call for call in calls if call.rows], step, last=number == len(rounds) - 1, ended=ended)
        return ended

    def _run_round(self, calls: list[EngineCall], step: StepPlan, *, last: bool, ended: set[str]) -> None:
        """Compute calls at the same time, and read what they give."""
        ready = [call for call in calls if self._prepare(call)]
        encoder = self._encoder()
        with self.queue.wake:
            tasks = tuple(task for call in ready for task in call.tasks)
            if self.queue.closing or all(task.cancelled for task in tasks):
                self._break([task.entry.id for task in tasks])
                return  # everybody in it has given up: the next plan drops them
            for runner in self._runners.runners:
                runner.context.clear_abort()
            if encoder is not None:
                encoder.clear_abort()
            self.queue.current = tasks
        ahead = last and self._plans_ahead and len(self._state) >= WORTH_AHEAD
        if ahead or len(self._state.waiting):
            self._background.start(partial(self._look_ahead, step, plans=ahead))
        begun = time.monotonic()
        # Those with a thread of their own first: the other one is computed right here.
        ready.sort(key=lambda call: call.runner.here)
        running = [(call, call.runner.run(work(call, encoder))) for call in ready]
        errors = [future.exception() for _, future in running]
        seconds = time.monotonic() - begun
        beside = self._background.join()
        with self.queue.wake:
            self.queue.current = ()
        self.counters.bridged += sum(len(call.bridges) for call in ready)
        for (call, future), error in zip(running, errors, strict=True):
            if error is None:
                self._read(call, future.result(), ended)
            elif isinstance(error, KvFullError) and len(call.rows) > 1:
                self._halve(call, step, ended)
            elif isinstance(error, AbortedError):
                self._break([row.request for row in call.rows])
            else:
                self._give_up([row.request for row in call.rows], error)
        whole = not any(errors)
        self._timing.computed(ready, seconds, beside, self._state.cells.used, whole=whole)

    def _look_ahead(self, step: StepPlan, *, plans: bool) -> None:
        """While a step is computed, on another thread: refuse requests that wait in vain, and plan the next step."""
        self._refuse()
        if plans:
            self._ahead = plan_after(self._state, step, self._limits, self._cost, self._lengths, self._index)

    def _halve(self, call: EngineCall, step: StepPlan, ended: set[str]) -> None:
        """Compute a call again that the engine had no room for, in two: only a row that fails alone is given up."""
        logger.warning("no room for a call of %d rows: it is computed in two", len(call.rows))
        middle = len(call.rows) // 2
        for part in (slice(middle), slice(middle, None)):
            half = replace(call, rows=call.rows[part], tasks=call.tasks[part], spans=[], bridges={})
            self._run_round([half], step, last=False, ended=ended)

    def _refuse(self) -> None:
        """Tell those that wait in vain; the next plan drops them."""
        for request_id, error in self._deadlines.queued(self._state):
            if self._tasks[request_id].started is None:
                self.counters.refused_late += 1
                self._tasks[request_id].fail(error)
                self._state.cancel(request_id)

    def _prepare(self, call: EngineCall) -> bool:
        """Put a call into its runner's batch; return whether it can be computed."""
        try:
            fill(call)
            if not call.encode:
                call.runner.bind(call)
        except Exception as error:  # noqa: BLE001 - the loop must survive any fault of one step
            self._give_up([row.request for row in call.rows], error)
            return False
        return True

    def _read(self, call: EngineCall, states: NDArray[np.float32] | None, ended: set[str]) -> None:
        """Take what a call has computed: hidden states, scores, and the next tokens of answers."""
        context = call.runner.context
        answers: list[tuple[GenerateTask, int]] = []
        for task, row, span in zip(call.tasks, call.rows, call.spans, strict=True):
            try:
                if isinstance(task, EncodeTask) and states is not None:
                    task.read(states[span.start : span.stop], row)
                elif isinstance(task, ScoreTask):
                    task.read(context, row, span)
                elif isinstance(task, GenerateTask) and row.logits:
                    answers.append((task, span[-1]))
                    if call.prompts:
                        self._runners.read(task.entry, row.seq)
            except Exception as error:  # noqa: BLE001 - its batch mates are not to suffer
                self._give_up([row.request], error)
        sampled = sample_rows(context, answers)
        ended.update(sampled.ended)
        self._forced.update(sampled.forced)
        if sampled.forced or any(
            self._state.get(name).generated + 1 < self._state.get(name).max_tokens for name in sampled.ended
        ):
            self._surprised = True  # nobody could know
        for failed, why in sampled.failed:
            self._give_up([failed.entry.id], why)

    def _finish(self, task: Task) -> None:
        """Hand over what is complete, and note what it leaves in the cache."""
        request_id = task.entry.id
        left = next((prefix for prefix in self._state.idle.values() if prefix.id == request_id), None)
        if left is None or self._index is None:
            self._forget(request_id)
        else:
            self._index.hold(request_id, task.all_ids[: left.tokens])
        if self._lengths is not None and task.entry.kind is Kind.GENERATE:
            short = task.entry.generated < task.entry.max_tokens
            self._lengths.observe(max(task.entry.generated, 1), ended=short, group=task.entry.blend)
        task.close()
        try:
            task.finish()
        except Exception as error:  # noqa: BLE001 - the loop must survive any fault of one request
            task.fail(reported(error, 1))

    def _forget(self, request_id: str) -> None:
        if self._index is not None:
            self._index.forget(request_id)

    def _break(self, request_ids: Iterable[str]) -> None:
        """Compute nothing more of these requests within this step; the next plan drops them."""
        self._surprised = True
        for request_id in request_ids:
            self._broken.add(request_id)
            self._state.cancel(request_id)

    def _give_up(self, request_ids: Sequence[str], error: Exception | BaseException) -> None:
        """Fail these requests; the next plan drops them."""
        said = reported(error, len(request_ids))
        self._spoilt |= isinstance(error, NotFiniteError)
        self._break(request_ids)
        for request_id in set(request_ids):
            self._tasks[request_id].fail(said)
