"""What is scheduled: token counts only, no text and no engine."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crayon.server.steps.limits import StepLimits

# What one step of priority is worth among the requests of one client.
PRIORITY_SECONDS = 5.0


class Kind(StrEnum):
    """What a request wants computed."""

    GENERATE = "generate"
    SCORE = "score"
    ENCODE = "encode"


@dataclass(slots=True)
class Slot:
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
        blend: name of the adapter blend, "" is the base; different blends never share a nano-batch, unless `mixed`.
        mixed: whether the engine computes rows of different blends together; all requests of an engine or none.
        client: whose request it is; clients share the engine by tokens (see `fairness`).
        priority: a bounded head start, `PRIORITY_SECONDS` before the same client's other requests and
            `fairness.PRIORITY_TOKENS` before other clients' for each step.
        arrival, deadline: in the state's clock.
    """

    id: str
    kind: Kind
    prompt: int
    max_tokens: int = 0
    branches: tuple[int, ...] = ()
    blend: str = ""
    mixed: bool = False
    client: str = ""
    priority: int = 0
    arrival: float = 0.0
    deadline: float | None = None

    cancelled: bool = False
    number: int = 0
    """Order of arrival, given by the state; breaks ties."""
    computed: int = 0
    """Tokens of prompt and answer in the cache."""
    generated: int = 0
    read: int = 0
    """Tokens of the prompt and the branches that were computed."""
    branches_started: int = 0
    branches_done: int = 0
    reserved: int = 0
    """Cache tokens set aside while running."""
    shared: int = 0
    """Tokens of the prompt that were in the cache already and not computed."""
    slots: list[Slot] = field(default_factory=list)
    group: tuple[str, bool] = field(init=False)
    """Requests of one group may share a nano-batch."""
    least: int = field(init=False)
    """Cache tokens it takes at most, with one sequence."""

    def __post_init__(self) -> None:
        self.group = ("" if self.mixed else self.blend, self.kind is Kind.ENCODE)
        self.least = self.kv_need()

    @property
    def turn(self) -> tuple[float, int]:
        """Place among the requests of its client: smaller runs first."""
        return (self.arrival - self.priority * PRIORITY_SECONDS, self.number)

    @property
    def charge(self) -> int:
        """Tokens that are certain to be computed; a generated token is one more each."""
        return self.prompt + sum(self.branches)

    @property
    def to_read(self) -> int:
        """Tokens that were not in the cache when it began and are read for it in all."""
        return self.charge - self.shared

    @property
    def unread(self) -> int:
        """Tokens that it was charged for and that were neither computed for it nor found in the cache."""
        return max(0, self.to_read - self.read) if self.reading else 0

    @property
    def reading(self) -> bool:
        """Whether there is more of it to read."""
        return not self.generated

    @property
    def decoding(self) -> bool:
        """Whether the next token to compute is one that was just sampled."""
        return self.generated > 0

    @property
    def pending(self) -> int:
        """Tokens of the answer that are known and not computed: one while it is written, and those that are forced."""
        return self.prompt + self.generated - self.computed

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        if self.kind is Kind.GENERATE:
            return self.generated >= self.max_tokens
        return self.computed >= self.prompt and self.branches_done >= len(self.branches)

    def kv_need(self, slots: int = 1) -> int:
        """Return the cache tokens this takes at most, with `slots` sequences."""
        if self.kind is Kind.GENERATE:
            return self.prompt + self.max_tokens
        return self.prompt + sum(sorted(self.branches, reverse=True)[:slots])

    def ever_fits(self, limits: StepLimits) -> bool:
        """Whether an empty engine could run this."""
        return self.least <= limits.capacity(encode=self.kind is Kind.ENCODE)


def copy_of(request: Request) -> Request:
    """Return a copy that can be advanced without the other."""
    made = copy(request)
    made.slots = [Slot(slot.seq, slot.branch, slot.computed) for slot in request.slots]
    return made
