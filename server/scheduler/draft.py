"""The cache as it will be, while a plan is being made: what is decided so far is counted at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.steps.request import Kind, Request, Slot
from crayon.server.steps.step_plan import IdlePrefix, KvOp, Share

if TYPE_CHECKING:
    from collections.abc import Collection

    from crayon.server.scheduler.state import State
    from crayon.server.steps.limits import StepLimits


class Draft:
    """Holds what one plan has decided about sequences and cells.

    Args:
        state: is read only.
        limits: limits of the step.
        gone: the requests that the plan drops; their sequences are emptied.
    """

    def __init__(self, state: State, limits: StepLimits, gone: Collection[str]) -> None:
        self.limits = limits
        self.kv: list[KvOp] = []
        self.evicted: list[IdlePrefix] = []
        self.shares: dict[str, Share] = {}
        self.slots: dict[str, list[Slot]] = {}
        """Of the requests that this plan admits or restores."""
        self.idle = state.idle
        self._cells = state.cells
        self._copied = False
        self._free: list[int] | None = None
        self._evictable: int | None = None
        self._promised: int | None = None
        self._begun = 0  # tokens that generating requests begin with by this plan
        running = self._running = state.running
        self._out = {*gone}
        self.running = [item for item in running.values() if item.id not in gone] if gone else list(running.values())
        """In order of admission."""
        while len(self.idle) > limits.max_idle_prefixes:
            self.evict()
        for op in state.released:
            if op.keep and op.seq in self.idle and not self.cuts(op.seq, op.keep):
                self.forget(op.seq)
                self.empty(op.seq)
            elif op.keep == 0 or op.seq in self.idle:
                self._apply(op)
        for request_id in gone:
            if request_id in running:
                for slot in running[request_id].slots:
                    self.empty(slot.seq)
        self.generating = [request for request in self.running if request.kind is Kind.GENERATE]
        self.fixed = 0
        """Tokens that the others may still add to the cache for generating; their worst case, whatever is predicted."""
        if len(self.generating) < len(self.running):
            self.fixed = sum(self.growth(item) for item in self.running if item.kind is not Kind.GENERATE)

    # -- what there is

    @property
    def used(self) -> int:
        """Cells in use."""
        return self._cells.used

    @property
    def evictable(self) -> int:
        """Cells that dropping every idle prefix would free."""
        if not self.idle:
            return 0
        if self._evictable is None:
            without = self._cells.copy()
            for seq in self.idle:
                without.apply(KvOp(seq, seq, 0))
            self._evictable = self._cells.used - without.used
        return self._evictable

    @property
    def room(self) -> int:
        """Tokens that generating requests may add to the cache now, once no prefix is idle."""
        return self.limits.kv_capacity - self._cells.used - self.fixed + self.evictable

    def start(self, request: Request) -> int:
        """Return how many tokens of a request are in the cache, those that this plan copies included."""
        if not self.shares:
            return request.computed
        share = self.shares.get(request.id)
        return request.computed if share is None else share.tokens

    @property
    def promised(self) -> int:
        """Tokens that generating requests may still add to the cache at most."""
        if self._promised is None:
            self._promised = sum([request.least - request.computed for request in self.generating]) - self._begun
        return self._promised

    def source(self, name: str) -> IdlePrefix | None:
        """Return what the request of this name holds that another may begin with; None if nothing."""
        request = self._running.get(name)
        if request is not None:
            # What this plan itself puts into a sequence is not there yet when others copy.
            if name in self.slots or name in self._out or not request.computed:
                return None
            return IdlePrefix(name, request.slots[0].seq, request.computed, request.group)
        return next((prefix for prefix in self.idle.values() if prefix.id == name), None)

    def cuts(self, seq: int, tokens: int) -> bool:
        """Whether another may begin with the first `tokens` tokens of a sequence."""
        limit = self.limits.cut_limit
        return limit is None or (held := self._cells.length(seq)) <= limit or held == tokens

    def growth(self, request: Request) -> int:
        """Return the most tokens that a scored or encoded request may still add to the cache for generating."""
        if request.kind is Kind.ENCODE:
            return request.reserved if self.limits.encode_capacity is None else 0
        held = request.computed - request.shared
        for slot in request.slots:
            held += max(0, self._cells.length(slot.seq) - request.prompt)
        return max(0, request.reserved - held)

    # -- what is decided

    def empty(self, seq: int) -> None:
        """Take everything out of a sequence."""
        self._apply(KvOp(seq, seq, 0))

    def evict(self, spare: int | None = None) -> bool:
        """Drop the idle prefix unused for longest, but for sequence `spare`; return whether there was one."""
        seq = next((seq for seq in self.idle if seq != spare), None)
        if seq is None:
            return False
        self.forget(seq)
        self.empty(seq)
        if self._free is not None:
            self._free.append(seq)
        return True

    def forget(self, seq: int) -> None:
        """Take an idle prefix off the list."""
        self.evicted.append(self.idle[seq])
        self.idle = {other: prefix for other, prefix in self.idle.items() if other != seq}
        self._evictable = None

    def share(self, request: Request, seq: int, source: IdlePrefix) -> None:
        """Let a request begin with what `source` holds, in its own sequence `seq`."""
        self._apply(KvOp(seq, source.seq, source.tokens))
        self._promised = None
        if request.kind is Kind.GENERATE:
            self._begun += source.tokens - self.start(request)
        self.shares[request.id] = Share(request.id, source.id, source.tokens)

    def take(self, spare: int | None = None) -> int | None:
        """Return a sequence that nobody uses, if need be that of an idle prefix other than `spare`."""
        if not self.free and not self.evict(spare):
            return None
        return self.free.pop(0)

    @property
    def free(self) -> list[int]:
        """Sequences that nobody uses."""
        if self._free is None:
            used = {slot.seq for request in self.running for slot in self.slots.get(request.id, request.slots)}
            used.update(self.idle)
            self._free = [seq for seq in range(self.limits.max_seqs) if seq not in used]
        return self._free

    def run(self, request: Request, seqs: list[int], reserved: int) -> None:
        """Count a request among the running ones."""
        self.running.append(request)
        self.slots[request.id] = [Slot(seq) for seq in seqs]
        if request.kind is Kind.GENERATE:
            self.generating.append(request)
            if self._promised is not None:
                self._promised += request.least - self.start(request)
        elif request.kind is Kind.SCORE or self.limits.encode_capacity is None:
            share = self.shares.get(request.id)
            self.fixed += reserved - (share.tokens if share else 0)

    def load(self, seq: int, tokens: int) -> None:
        """Count what is restored into a sequence."""
        self._touch()
        self._cells.grow(seq, tokens)

    def spill(self, request: Request) -> Request:
        """Take a generating request out of the cache."""
        for held in (self.generating, self.running):
            at = next(i for i in range(len(held) - 1, -1, -1) if held[i] is request)
            del held[at]
        self._out.add(request.id)
        self._promised = None
        self.empty(request.slots[0].seq)
        if self._free is not None:
            self._free.append(request.slots[0].seq)
        return request

    def settle(self, tokens: int) -> None:
        """Drop idle prefixes until generating requests can add `tokens` tokens."""
        while self._cells.used + self.fixed + tokens > self.limits.kv_capacity and self.evict():
            pass

    def _apply(self, op: KvOp) -> None:
        self._touch()
        self._cells.apply(op)
        self.kv.append(op)

    def _touch(self) -> None:
        if not self._copied:
            self._cells, self._copied = self._cells.copy(), True
        self._evictable = None
