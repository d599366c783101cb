"""An engine without a model: runs the scheduler's plans on a virtual clock and checks every one of them.

It keeps a cache as llama.cpp does (cells that sequences share, positions without gaps) and fails on the first
plan that a real engine could not run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from crayon.errors import EngineError
from crayon.server.scheduler import (
    Drop,
    DropReason,
    LinearCost,
    Outcome,
    Request,
    Resource,
    State,
    commit,
    plan,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.server.scheduler import Caps, CostModel, KvOp, NanoBatch, Row, StepPlan

_Cell: TypeAlias = tuple[str, int | None, int]  # request, branch, position


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request as the world brings it. The answer ends by itself after `length` tokens (None: never)."""

    request: Request
    length: int | None = None
    cancel_at: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What was run, when, and how many cache cells were in use after it."""

    plan: StepPlan
    start: float
    end: float
    cells: int


@dataclass(slots=True)
class Report:
    """What happened. Times are of the virtual clock; steps count from 0."""

    steps: list[Step] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)
    """Step in which each request was finished."""
    dropped: dict[str, tuple[int, DropReason]] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    """First step that could see the request."""
    cancelled: dict[str, int] = field(default_factory=dict)
    """First step that could see the cancellation."""
    computed: dict[tuple[str, int | None], list[int]] = field(default_factory=dict)
    """Positions in the order they were computed, by (request, branch)."""


class SimulatedCache:
    """Cells of tokens, shared by sequences."""

    def __init__(self, max_seqs: int) -> None:
        self._seqs: list[list[_Cell]] = [[] for _ in range(max_seqs)]
        self._owners: Counter[_Cell] = Counter()

    @property
    def used(self) -> int:
        """Cells in use."""
        return len(self._owners)

    def apply(self, op: KvOp) -> None:
        """Do one cache operation.

        Raises:
            EngineError: the source does not hold that many tokens.
        """
        kept = self._seqs[op.source][: op.keep]
        if len(kept) < op.keep:
            raise EngineError(f"sequence {op.source} holds {len(kept)} tokens, {op.keep} are wanted")
        old, self._seqs[op.seq] = self._seqs[op.seq], kept
        self._owners.update(kept)
        self._owners.subtract(old)
        self._owners = +self._owners

    def compute(self, row: Row) -> None:
        """Add a row's tokens.

        Raises:
            EngineError: the sequence is not exactly at the row's start, or holds somebody else's tokens.
        """
        seq = self._seqs[row.seq]
        if len(seq) != row.start:
            raise EngineError(f"sequence {row.seq} holds {len(seq)} tokens, the row starts at {row.start}")
        if seq and (seq[-1][0] != row.request or seq[-1][1] not in {None, row.branch}):
            raise EngineError(f"sequence {row.seq} holds tokens of {seq[-1]}, not of {row.request}")
        cells = [(row.request, row.branch, row.start + i) for i in range(row.tokens)]
        seq.extend(cells)
        self._owners.update(cells)


class SimulatedEngine:
    """Runs jobs to their end.

    Args:
        caps: its limits; a plan that breaks one fails.
        cost: how long its steps really take.
        assumed: what the scheduler believes instead, if not the same.
    """

    def __init__(self, caps: Caps, cost: CostModel | None = None, assumed: CostModel | None = None) -> None:
        self.caps = caps
        self.cost: CostModel = cost or LinearCost()
        self.assumed: CostModel = assumed or self.cost
        self.state = State()
        self.report = Report()
        self._cache = SimulatedCache(caps.max_seqs)
        self._jobs: dict[str, Job] = {}

    def run(self, jobs: Sequence[Job], max_steps: int = 100_000) -> Report:
        """Run until every job is finished or dropped.

        Raises:
            EngineError: a plan broke a rule, or work was left after `max_steps`.
        """
        self._jobs.update((job.request.id, job) for job in jobs)
        coming = sorted(jobs, key=lambda job: job.request.arrival)
        while coming or len(self.state):
            if self.state.step >= max_steps:
                raise EngineError(f"{len(self.state)} requests are left after {max_steps} steps")
            if not len(self.state):
                self.state.now = max(self.state.now, coming[0].request.arrival)
            while coming and coming[0].request.arrival <= self.state.now:
                request = coming.pop(0).request
                self.state.add(request)
                self.report.arrived[request.id] = self.state.step
            self._cancel()
            self._step()
        self._step()  # empties what ended last
        if self._cache.used:
            raise EngineError(f"{self._cache.used} cells are in use after the last request")
        return self.report

    def _cancel(self) -> None:
        for request in self.state:
            at = self._jobs[request.id].cancel_at
            if at is not None and at <= self.state.now and not request.cancelled:
                self.state.cancel(request.id)
                self.report.cancelled[request.id] = self.state.step

    def _step(self) -> None:
        step = plan(self.state, self.caps, self.assumed)
        self._check(step)
        start = self.state.now
        for op in step.kv:
            self._cache.apply(op)
        for nano in step.nano:
            self._compute(nano)
        if self._cache.used > self.caps.kv_capacity:
            raise EngineError(f"{self._cache.used} cells, {self.caps.kv_capacity} there are")
        if step.nano:
            self.state.now += self.cost.seconds(step.tokens, len(step.calls()))
        self.report.steps.append(Step(step, start, self.state.now, self._cache.used))
        self._book(step)

    def _compute(self, nano: NanoBatch) -> None:
        for row in nano.rows:
            self._cache.compute(row)
            positions = self.report.computed.setdefault((row.request, row.branch), [])
            positions.extend(range(row.start, row.start + row.tokens))

    def _book(self, step: StepPlan) -> None:
        ended = set()
        for nano in step.nano:
            for row in nano.rows:
                length = self._jobs[row.request].length
                if length is not None and row.logits and self.state.get(row.request).generated + 1 >= length:
                    ended.add(row.request)
        at = self.state.step
        changes = commit(self.state, step, Outcome(ended=frozenset(ended)))
        self.report.finished.update(dict.fromkeys(changes.finished, at))
        self.report.dropped.update((drop.request, (at, drop.reason)) for drop in changes.dropped)

    def _check(self, step: StepPlan) -> None:
        """Fail where a plan breaks the limits or the form of a plan."""
        rows = [row for nano in step.nano for row in nano.rows]
        logits = sum(row.logits for row in rows)
        if step.tokens > self.caps.max_tokens or logits > self.caps.outputs:
            raise EngineError(f"{step.tokens} tokens and {logits} rows of logits are too many")
        if len({nano.blend for nano in step.nano}) > self.caps.max_blends:
            raise EngineError("too many blends")
        encode = [nano.resource is Resource.ENCODE for nano in step.nano]
        if any(encode) and len(encode) > 1:
            raise EngineError("encoding shares a step")
        if any(row.tokens < 1 or not 0 <= row.logits <= row.tokens for row in rows):
            raise EngineError("an empty row")
        if len({row.seq for row in rows}) < len(rows):
            raise EngineError("two rows of one sequence in one step")
        gone: set[Drop] = {drop for drop in step.drops if any(row.request == drop.request for row in rows)}
        if gone:
            raise EngineError(f"dropped requests still compute: {gone}")
