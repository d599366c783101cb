"""The waiting and the running requests: token counts only, no text and no engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.errors import EngineError
from crayon.server.scheduler.cells import Cells
from crayon.server.scheduler.fairness import Queue
from crayon.server.scheduler.reading import Readers
from crayon.server.steps.request import Kind, Slot, copy_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from crayon.server.steps.request import Request
    from crayon.server.steps.step_plan import Group, IdlePrefix, KvOp


@dataclass(slots=True)
class State:
    """Everything `plan` decides from. Engines change it through `add`, `cancel`, `now` and `commit`."""

    now: float = 0.0
    step: int = 0
    waiting: Queue = field(default_factory=Queue)
    running: dict[str, Request] = field(default_factory=dict)
    """In order of admission."""
    spilled: dict[str, Request] = field(default_factory=dict)
    """Running ones that are out of the cache for now, in order of admission; who was admitted after them is of a client
    that had nothing else."""
    idle: dict[int, IdlePrefix] = field(default_factory=dict)
    """What finished requests left, by sequence, the one unused for longest first; a plan drops what is too many."""
    cells: Cells = field(default_factory=Cells)
    """What the sequences of generating and scoring requests and of `idle` hold."""
    shared_tokens: int = 0
    """Tokens that never had to be computed because a sequence held them."""
    released: list[KvOp] = field(default_factory=list)
    """What the next plan has to do for sequences that ended since the last one."""
    served: dict[Group, int] = field(default_factory=dict)
    """Step at which a group last ran; a new one counts as served just before its first request was admitted."""
    spent: dict[Group, int] = field(default_factory=dict)
    """Tokens that a group has computed in its turn."""
    credit: float = 1.0
    """Steps that may be longer than answers want to wait (see `budget`)."""
    readers: Readers = field(default_factory=Readers)
    """Whose prompts and texts come first in a step."""
    _by_id: dict[str, Request] = field(default_factory=dict)
    _numbers: int = 0

    def copy(self, touched: Collection[str]) -> State:
        """Return a copy that a step may be booked in; of those that wait only the `touched` are copied too."""
        mine = {key: copy_of(request) for held in (self.running, self.spilled) for key, request in held.items()}
        mine.update({key: copy_of(self._by_id[key]) for key in touched if key not in mine})
        return State(
            now=self.now,
            step=self.step,
            waiting=self.waiting.copy(),
            running={key: mine[key] for key in self.running},
            spilled={key: mine[key] for key in self.spilled},
            idle=self.idle.copy(),
            cells=self.cells.copy(),
            shared_tokens=self.shared_tokens,
            released=self.released.copy(),
            served=self.served.copy(),
            spent=self.spent.copy(),
            credit=self.credit,
            readers=self.readers.copy(),
            _by_id=self._by_id | mine,
            _numbers=self._numbers,
        )

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            EngineError: the id is in use, or the request has no work; callers check their input before this.
        """
        if request.id in self._by_id:
            raise EngineError(f"request {request.id} is already scheduled")
        wanted = request.max_tokens if request.kind is Kind.GENERATE else len(request.branches)
        prompted = request.kind is not Kind.ENCODE
        if (request.prompt > 0) is not prompted or min(request.branches, default=1) < 1:
            raise EngineError(f"request {request.id} has a length under 1")
        if wanted < 1 and request.kind is not Kind.SCORE:
            raise EngineError(f"request {request.id} asks for nothing")
        self._numbers += 1
        request.number = self._numbers
        self._by_id[request.id] = request
        for seq, prefix in self.idle.items():
            if prefix.id == request.id:  # the name says something else from now on
                self.idle[seq] = prefix._replace(tokens=0)
        self.waiting.add(request)

    def find(self, request_id: str) -> Request | None:
        """Return the request, or None if it is not scheduled (any more)."""
        return self._by_id.get(request_id)

    def get(self, request_id: str) -> Request:
        """Return a request that is scheduled.

        Raises:
            EngineError: it is not.
        """
        request = self._by_id.get(request_id)
        if request is None:
            raise EngineError(f"request {request_id} is not scheduled")
        return request

    def start(self, request_ids: Collection[str]) -> None:
        """Move requests from waiting to running, in this order."""
        for request_id in request_ids:
            request = self.running[request_id] = self._by_id[request_id]
            self.served.setdefault(request.group, self.step - 1)
            self.waiting.admit(request)
            self.readers.begin(request.client, (item.client for item in self.running.values() if item.reading))

    def spill(self, request_id: str) -> None:
        """Take a running request out of the cache: the youngest of those that generate, one after the other."""
        request = self.running.pop(request_id)
        request.slots = []
        request.shared = 0  # it comes back with cells of its own
        self.spilled = {request_id: request, **self.spilled}

    def restore(self, request_id: str, seq: int) -> None:
        """Let a spilled request go on where it was."""
        request = self.running[request_id] = self.spilled.pop(request_id)
        request.slots = [Slot(seq)]
        self.cells.grow(seq, request.computed)
        self.served.setdefault(request.group, self.step - 1)
        if request.reading:
            self.readers.begin(request.client, (item.client for item in self.running.values() if item.reading))

    def remove(self, request_ids: Collection[str]) -> None:
        """Forget requests; a group that nobody is left in loses its place in the rotation."""
        for request_id in request_ids:
            request = self._by_id.pop(request_id)
            if self.running.pop(request_id, None) is None and self.spilled.pop(request_id, None) is None:
                self.waiting.discard(request)
            else:
                # It was charged for all of it when it was admitted: who leaves early pays for what was done.
                self.waiting.charge(request.client, -request.unread)
        self.waiting.forgive({request.client for held in (self.running, self.spilled) for request in held.values()})
        self.readers.forgive(request.client for request in self.running.values() if request.reading)
        live = {request.group for request in self.running.values()}
        self.served = {group: step for group, step in self.served.items() if group in live}
        self.spent = {group: tokens for group, tokens in self.spent.items() if group in live}

    def cancel(self, request_id: str) -> bool:
        """Mark a request; the next plan drops it. Returns whether it was still scheduled."""
        request = self.find(request_id)
        if request is None:
            return False
        request.cancelled = True
        return True

    def __iter__(self) -> Iterator[Request]:
        yield from self.running.values()
        yield from self.spilled.values()
        yield from self.waiting

    def __len__(self) -> int:
        return len(self.running) + len(self.spilled) + len(self.waiting)
