"""One step: what `plan` decides and what `commit` is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


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


class Admission(NamedTuple):
    """A request leaves the queue with these sequences and this much cache."""

    request: str
    seqs: tuple[int, ...]
    reserved: int


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
    """In this order: tell the dropped, apply `kv`, run `nano`.

    Neighbouring nano-batches of one blend may be run as one engine call, or at the same time.
    """

    step: int
    drops: tuple[Drop, ...] = ()
    admissions: tuple[Admission, ...] = ()
    kv: tuple[KvOp, ...] = ()
    nano: tuple[NanoBatch, ...] = ()
    seconds: float = 0.0
    """Predicted time."""

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
class Outcome:
    """What became of a plan.

    `ran` nano-batches were computed, in the plan's order (None: all). `ended` are the generating requests
    whose last sampled token ends the answer (end of sequence, stop text); `max_tokens` needs no word.
    """

    ran: int | None = None
    ended: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Changes:
    """What `commit` changed."""

    finished: tuple[str, ...] = ()
    dropped: tuple[Drop, ...] = ()
