"""How long the server's scheduler needs for one step, with an engine that does nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.server.scheduler import Kind, LinearCost, Request, State, StepLimits, StepOutcome, TokenIndex, commit, plan

if TYPE_CHECKING:
    from crayon.server.scheduler import StepPlan

REQUESTS = 256
_PROMPT, _ANSWER, _HEAD = 64, 128, 40
_BLENDS = 4


class _Halves:
    """Predicts half of what an answer may get."""

    def remaining(self, generated: int, most: int, *, group: str = "") -> int:  # noqa: ARG002 - LengthModel's
        return max(1, most // 2)


def bench_plan(steps: int = 300) -> BenchReport:
    """Plan `steps` steps with 256 requests, of 16 clients and 4 blends, some running and the rest waiting.

    Whoever ends is replaced at once. Half of what an answer may get is predicted, prompts share their first 40
    tokens, and the cache is small enough for both to matter.
    """
    report = BenchReport("plan")
    for running in (16, 64, REQUESTS):
        planned, committed = _Load(running).run(steps)
        workload = f"{running} running, {REQUESTS - running} waiting"
        report.rows.append(BenchRow.median("plan_ms", "ms", planned, workload=workload))
        report.rows.append(BenchRow.median("commit_ms", "ms", committed, workload=workload))
    return report


class _Load:
    def __init__(self, running: int) -> None:
        self._limits = StepLimits(
            max_tokens=512,
            max_seqs=running,
            kv_capacity=running * (_PROMPT + _ANSWER) * 3 // 4,
            spill=True,
            max_idle_prefixes=min(8, running // 4),
        )
        self._state = State()
        self._index = TokenIndex()
        self._made = 0

    def run(self, steps: int) -> tuple[list[float], list[float]]:
        """Return milliseconds of planning and of booking each step, after half as many for warming up."""
        planned, committed = [], []
        cost, lengths = LinearCost(), _Halves()
        for _ in range(steps + steps // 2):
            while len(self._state) < REQUESTS:
                self._add()
            start = time.perf_counter()
            step = plan(self._state, self._limits, cost, lengths, self._index)
            between = time.perf_counter()
            self._tell(step)
            booking = time.perf_counter()
            changes = commit(self._state, step, StepOutcome())
            end = time.perf_counter()
            for name in changes.finished:
                self._index.hold(name)
            planned.append(1000 * (between - start))
            committed.append(1000 * (end - booking))
        return planned[-steps:], committed[-steps:]

    def _add(self) -> None:
        number = self._made
        self._made += 1
        name, blend = str(number), str(number % _BLENDS)
        # Answers of different lengths, so that they do not all end at once.
        answer = _ANSWER // 4 + number * 37 % _ANSWER
        client = str(number % 16)
        self._state.add(
            Request(id=name, kind=Kind.GENERATE, prompt=_PROMPT, max_tokens=answer, blend=blend, client=client)
        )
        self._index.add(name, blend, [*range(_HEAD), *[number + _HEAD] * (_PROMPT - _HEAD)])

    def _tell(self, step: StepPlan) -> None:
        for admission in step.admissions:
            self._index.hold(admission.request)
        for prefix in step.evicted:
            self._index.forget(prefix.id)
