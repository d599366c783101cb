"""One step: what `plan` decides and what `commit` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Group: TypeAlias = tuple[str, bool]
"""A blend, and whether it encodes: requests of one group may share a nano-batch."""


class Resource(StrEnum):
    """What limits a nano-batch."""

    PREFILL = "prefill"
    """Compute: many tokens of few sequences."""
    DECODE = "decode"
    """Memory: one token of many sequences."""
    ENCODE = "encode"
    """Compute, but another graph: states of a layer instead of logits. Never shares a step."""


class Row(NamedTuple):
    """`tokens` tokens of one request at positions `start`, `start + 1`, ... of sequence `seq`.

    The last `logits` of them want logits. `branch` is the continuation or text they belong to, None for the
    prompt and the answer.
    """

    request: str
    seq: int
    start: int
    tokens: int
    logits: int
    branch: int | None = None


class KvOp(NamedTuple):
    """Make `seq` hold exactly the first `keep` tokens of `source`; `(s, s, 0)` empties s. Order matters."""

    seq: int
    source: int
    keep: int


@dataclass(frozen=True, slots=True)
class NanoBatch:
    """Rows of one blend and one resource class."""

    blend: str
    resource: Resource
    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(row.tokens for row in self.rows)


class IdlePrefix(NamedTuple):
    """What is left of a finished request: a sequence whose first `tokens` tokens another may begin with."""

    id: str
    """The request's."""
    seq: int
    tokens: int
    """0 once a later request has taken the name, because then nobody knows what these are."""
    group: Group


class Admission(NamedTuple):
    """A request leaves the queue with these sequences and this much cache."""

    request: str
    seqs: tuple[int, ...]
    reserved: int


class Spill(NamedTuple):
    """Save all that `seq` holds outside the cache, before anything else; a KvOp of this plan empties it."""

    request: str
    seq: int


class Restore(NamedTuple):
    """Load what was saved of a request into `seq`, which is empty once the KvOps are done."""

    request: str
    seq: int


class Share(NamedTuple):
    """A request begins with `tokens` tokens that are in the cache already; a KvOp of this plan copies them.

    `source` is the running request or the idle prefix that they are from.
    """

    request: str
    source: str
    tokens: int


class DropReason(StrEnum):
    """Why a request ends without being complete."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    NEVER_FITS = "never_fits"


class Drop(NamedTuple):
    """A request ends here; its sequences are free within this very step."""

    request: str
    reason: DropReason


@dataclass(frozen=True, slots=True)
class StepPlan:
    """In this order: tell the dropped, save the `spills`, apply `kv`, load the `restores`, run `nano`.

    Neighbouring nano-batches of one blend may be run as one engine call, or at the same time.
    """

    step: int
    drops: tuple[Drop, ...] = ()
    admissions: tuple[Admission, ...] = ()
    kv: tuple[KvOp, ...] = ()
    nano: tuple[NanoBatch, ...] = ()
    seconds: float = 0.0
    """Predicted time."""
    spills: tuple[Spill, ...] = ()
    restores: tuple[Restore, ...] = ()
    shares: tuple[Share, ...] = ()
    evicted: tuple[IdlePrefix, ...] = ()
    """Idle prefixes that `kv` empties."""
    turns: tuple[Group, ...] = ()
    """Groups whose turn begins with this step."""
    credit: float = 1.0
    """The state's credit after it (see `budget`)."""

    @property
    def tokens(self) -> int:
        """Tokens in all nano-batches."""
        return sum(nano.tokens for nano in self.nano)

    def calls(self) -> list[tuple[NanoBatch, ...]]:
        """Return the nano-batches joined to the fewest engine calls: neighbours of one blend."""
        calls: list[tuple[NanoBatch, ...]] = []
        for nano in self.nano:
            last = calls[-1][-1] if calls else None
            encode = nano.resource is Resource.ENCODE
            if last is not None and last.blend == nano.blend and (last.resource is Resource.ENCODE) is encode:
                calls[-1] = (*calls[-1], nano)
            else:
                calls.append((nano,))
        return calls


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What became of a plan.

    `ran` nano-batches were computed, in the plan's order (None: all). `ended` are the generating requests
    whose last sampled token ends the answer (end of sequence, stop text); `max_tokens` needs no word. Rows of `failed`
    requests count as run, but complete nothing: their sequences may hold less, and the next plan, which drops the
    requests, empties them. `forced` says how many tokens follow the one that a request sampled, without a choice.
    """

    ran: int | None = None
    ended: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    forced: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """What `commit` changed."""

    finished: tuple[str, ...] = ()
    dropped: tuple[Drop, ...] = ()
