"""Who waits and who runs: token counts only, no text and no engine."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from crayon.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from crayon.server.scheduler.caps import Caps

# What one step of priority is worth: a head start in the queue, so that no class waits for ever.
PRIORITY_SECONDS = 5.0


class Kind(StrEnum):
    """What a request wants computed."""

    GENERATE = "generate"
    SCORE = "score"
    ENCODE = "encode"


@dataclass(slots=True)
class Lane:
    """One sequence of the engine's cache, held by one request; `branch` runs on it beyond the prompt."""

    seq: int
    branch: int | None = None
    computed: int = 0
    """Tokens of the branch computed so far."""


@dataclass(slots=True, kw_only=True)
class Request:
    """Work in tokens.

    GENERATE reads `prompt` tokens and writes up to `max_tokens`. SCORE reads `prompt` tokens once, then each
    of `branches` continues from there on its own. ENCODE has no prompt; each of `branches` is a text.

    Args:
        blend: name of the adapter blend, "" is the base; different blends never share a nano-batch.
        priority: each step is worth `PRIORITY_SECONDS` in the queue.
        arrival, deadline: in the state's clock.
    """

    id: str
    kind: Kind
    prompt: int
    max_tokens: int = 0
    branches: tuple[int, ...] = ()
    blend: str = ""
    priority: int = 0
    arrival: float = 0.0
    deadline: float | None = None

    cancelled: bool = False
    number: int = 0
    """Order of arrival, given by the state; breaks ties."""
    computed: int = 0
    """Tokens of prompt and answer in the cache."""
    generated: int = 0
    branches_started: int = 0
    branches_done: int = 0
    reserved: int = 0
    """Cache tokens set aside while running."""
    lanes: list[Lane] = field(default_factory=list)
    group: tuple[str, bool] = field(init=False)
    """Requests of one group may share a nano-batch."""

    def __post_init__(self) -> None:
        self.group = (self.blend, self.kind is Kind.ENCODE)

    @property
    def turn(self) -> tuple[float, int]:
        """Place in the queue: smaller runs first."""
        return (self.arrival - self.priority * PRIORITY_SECONDS, self.number)

    @property
    def decoding(self) -> bool:
        """Whether the next token to compute is one that was just sampled."""
        return self.generated > 0

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        if self.kind is Kind.GENERATE:
            return self.generated >= self.max_tokens
        return self.computed >= self.prompt and self.branches_done >= len(self.branches)

    def kv_need(self, lanes: int = 1) -> int:
        """Return the cache tokens this takes at most, with `lanes` sequences."""
        if self.kind is Kind.GENERATE:
            return self.prompt + self.max_tokens
        return self.prompt + sum(sorted(self.branches, reverse=True)[:lanes])

    def ever_fits(self, caps: Caps) -> bool:
        """Whether an empty engine could run this."""
        return self.kv_need() <= caps.capacity(encode=self.kind is Kind.ENCODE)


@dataclass(slots=True)
class State:
    """Everything `plan` decides from. Engines change it through `add`, `cancel`, `now` and `commit`."""

    now: float = 0.0
    step: int = 0
    waiting: list[Request] = field(default_factory=list)
    """In order of `turn`."""
    running: dict[str, Request] = field(default_factory=dict)
    """In order of admission."""
    released: list[int] = field(default_factory=list)
    """Sequences that ended since the last plan; the next plan empties them."""
    served: dict[tuple[str, bool], int] = field(default_factory=dict)
    """Step at which a group last ran; a new one counts as served just before its first request was admitted."""
    _by_id: dict[str, Request] = field(default_factory=dict)
    _numbers: int = 0

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
        insort(self.waiting, request, key=lambda item: item.turn)

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
        self.waiting = [request for request in self.waiting if request.id not in self.running]

    def remove(self, request_ids: Collection[str]) -> None:
        """Forget requests; a group that nobody is left in loses its place in the rotation."""
        for request_id in request_ids:
            self._by_id.pop(request_id, None)
            self.running.pop(request_id, None)
        self.waiting = [request for request in self.waiting if request.id in self._by_id]
        live = {request.group for request in self.running.values()}
        self.served = {group: step for group, step in self.served.items() if group in live}

    def cancel(self, request_id: str) -> bool:
        """Mark a request; the next plan drops it. Returns whether it was still scheduled."""
        request = self.find(request_id)
        if request is None:
            return False
        request.cancelled = True
        return True

    def __iter__(self) -> Iterator[Request]:
        yield from self.running.values()
        yield from self.waiting

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)
