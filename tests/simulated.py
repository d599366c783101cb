"""An engine without a model: runs the scheduler's plans on a virtual clock and checks every one of them.

It keeps a cache as llama.cpp does (cells that sequences share, positions without gaps) and a store for what is spilled,
and fails on the first plan that a real engine could not run, or that would give a request another's tokens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from crayon.errors import EngineError
from crayon.server.scheduler import (
    Drop,
    DropReason,
    Kind,
    KvOp,
    LinearCost,
    Request,
    Resource,
    State,
    StepOutcome,
    TokenIndex,
    commit,
    plan,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.server.scheduler import CostModel, LengthModel, NanoBatch, Row, Share, StepLimits, StepPlan

_Cell: TypeAlias = tuple[str, int | None, int, int]  # request, branch, position, how often it was loaded again


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request as the world brings it.

    The answer ends by itself after `length` tokens (None: never). `ids` are the tokens of the prompt and of the
    longest answer; jobs without are shared with nobody.
    """

    request: Request
    length: int | None = None
    cancel_at: float | None = None
    ids: tuple[int, ...] = ()


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
    shared: dict[str, int] = field(default_factory=dict)
    """Tokens that each request began with and did not compute."""
    spilled: dict[str, int] = field(default_factory=dict)
    """How often each request was spilled."""


class SimulatedCache:
    """Cells of tokens, shared by sequences."""

    def __init__(self, max_seqs: int) -> None:
        self._seqs: list[list[_Cell]] = [[] for _ in range(max_seqs)]
        self._owners: Counter[_Cell] = Counter()
        self._loads = 0

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
        for cell in old:
            if not self._owners[cell]:
                self._owners.pop(cell, None)

    def cells(self, seq: int) -> list[_Cell]:
        """Return what a sequence holds."""
        return [*self._seqs[seq]]

    def load(self, seq: int, cells: Sequence[_Cell]) -> None:
        """Put what was saved into an empty sequence, in cells of its own.

        Raises:
            EngineError: the sequence is not empty.
        """
        if self._seqs[seq]:
            raise EngineError(f"sequence {seq} is not empty")
        self._loads += 1
        self._seqs[seq] = [(*cell[:3], self._loads) for cell in cells]
        self._owners.update(self._seqs[seq])

    def compute(self, row: Row, shared: int = 0) -> None:
        """Add a row's tokens; the first `shared` tokens of the sequence may be another request's.

        Raises:
            EngineError: the sequence is not exactly at the row's start, or holds somebody else's tokens.
        """
        seq = self._seqs[row.seq]
        if len(seq) != row.start:
            raise EngineError(f"sequence {row.seq} holds {len(seq)} tokens, the row starts at {row.start}")
        if row.start > shared and (seq[-1][0] != row.request or seq[-1][1] not in {None, row.branch}):
            raise EngineError(f"sequence {row.seq} holds tokens of {seq[-1]}, not of {row.request}")
        cells = [(row.request, row.branch, row.start + i, 0) for i in range(row.tokens)]
        seq.extend(cells)
        self._owners.update(cells)


class SimulatedEngine:
    """Runs jobs to their end.

    Args:
        limits: its limits; a plan that breaks one fails.
        cost: how long its steps really take.
        assumed: what the scheduler believes instead, if not the same.
        lengths: predicts answers; None reserves the worst case.
    """

    def __init__(
        self,
        limits: StepLimits,
        cost: CostModel | None = None,
        assumed: CostModel | None = None,
        lengths: LengthModel | None = None,
    ) -> None:
        self.limits = limits
        self.lengths = lengths
        self.cost: CostModel = cost or LinearCost()
        self.assumed: CostModel = assumed or self.cost
        self.state = State()
        self.report = Report()
        self._cache = SimulatedCache(limits.max_seqs)
        own = limits.encode_capacity is not None
        self._encoder = SimulatedCache(limits.max_seqs) if own else self._cache
        self._jobs: dict[str, Job] = {}
        self._index = TokenIndex()
        self._store: dict[str, list[_Cell]] = {}

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
                self._index.add(request.id, request.blend, self._jobs[request.id].ids[: request.prompt])
                self.report.arrived[request.id] = self.state.step
            self._cancel()
            self._step()
        self._step()  # empties what ended last
        if self._cache.used and not self.state.idle:
            raise EngineError(f"{self._cache.used} cells are in use after the last request")
        if self._store:
            raise EngineError(f"{len(self._store)} requests are in the store after the last one")
        return self.report

    def _cancel(self) -> None:
        for request in self.state:
            at = self._jobs[request.id].cancel_at
            if at is not None and at <= self.state.now and not request.cancelled:
                self.state.cancel(request.id)
                self.report.cancelled[request.id] = self.state.step

    def _step(self) -> None:
        step = plan(self.state, self.limits, self.assumed, self.lengths, self._index)
        self._check(step)
        start = self.state.now
        self._arrange(step)
        for nano in step.nano:
            self._compute(nano)
        if self._cache.used > self.limits.kv_capacity:
            raise EngineError(f"{self._cache.used} cells, {self.limits.kv_capacity} there are")
        if self._encoder.used > self.limits.capacity(encode=True):
            raise EngineError(f"{self._encoder.used} cells, the encoder has {self.limits.capacity(encode=True)}")
        if step.nano:
            self.state.now += self.cost.seconds(step.tokens, len(step.calls()))
        self.report.steps.append(Step(step, start, self.state.now, self._cache.used))
        self._book(step)
        mixed = self._encoder is self._cache
        encoding = mixed and (
            self.state.released or any(request.kind is Kind.ENCODE and request.slots for request in self.state)
        )
        if not encoding and self._cache.used != self.state.cells.used:
            raise EngineError(f"{self._cache.used} cells are in use, {self.state.cells.used} are counted")

    def _arrange(self, step: StepPlan) -> None:
        """Do what a plan says about the cache, in the order that `StepPlan` states."""
        for drop in step.drops:
            self._store.pop(drop.request, None)
            self._index.forget(drop.request)
        for spill in step.spills:
            self._store[spill.request] = self._cache.cells(spill.seq)
            self.report.spilled[spill.request] = self.report.spilled.get(spill.request, 0) + 1
        for op in step.kv:
            self._cache.apply(op)
            if self._encoder is not self._cache:
                self._encoder.apply(KvOp(op.seq, op.seq, 0))
        for prefix in step.evicted:
            self._index.forget(prefix.id)
        for restore in step.restores:
            self._cache.load(restore.seq, self._store.pop(restore.request))
        for admission in step.admissions:
            if self._jobs[admission.request].ids:
                self._index.hold(admission.request)
        for share in step.shares:
            self._check_shared(share)
            self.report.shared[share.request] = share.tokens

    def _check_shared(self, share: Share) -> None:
        """Fail where a request would begin with tokens that are not its own."""
        mine, other = self._jobs[share.request], self._jobs[share.source]
        if mine.request.blend != other.request.blend:
            raise EngineError(f"{share} is between two blends")
        if mine.ids[: share.tokens] != other.ids[: share.tokens]:
            raise EngineError(f"{share} is of different tokens")
        if not 0 < share.tokens < mine.request.prompt:
            raise EngineError(f"{share} leaves nothing to compute")

    def _compute(self, nano: NanoBatch) -> None:
        cache = self._encoder if nano.resource is Resource.ENCODE else self._cache
        for row in nano.rows:
            cache.compute(row, self.report.shared.get(row.request, 0))
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
        changes = commit(self.state, step, StepOutcome(ended=frozenset(ended)))
        for name in changes.finished:
            if self._jobs[name].ids:
                self._finish(name)
        self.report.finished.update(dict.fromkeys(changes.finished, at))
        self.report.dropped.update((drop.request, (at, drop.reason)) for drop in changes.dropped)

    def _finish(self, name: str) -> None:
        """Tell the index what the request left."""
        prefix = next((prefix for prefix in self.state.idle.values() if prefix.id == name), None)
        if prefix is None:
            self._index.forget(name)
        else:
            self._index.hold(name, self._jobs[name].ids[: prefix.tokens])

    def _check(self, step: StepPlan) -> None:
        """Fail where a plan breaks the limits or the form of a plan."""
        rows = [row for nano in step.nano for row in nano.rows]
        logits = sum(row.logits for row in rows)
        if step.tokens > self.limits.max_tokens or logits > self.limits.outputs:
            raise EngineError(f"{step.tokens} tokens and {logits} rows of logits are too many")
        if len({nano.blend for nano in step.nano}) > self.limits.max_blends:
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
