"""What a stream carries: the events of one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from crayon.completion import Blend, FinishReason, Timings, Usage


@dataclass(frozen=True, slots=True)
class TokenSignal:
    """What the model thought of one token it wrote, from its unmodified distribution (natural logarithms).

    `logprob` of the token taken, `entropy` of the whole distribution, `margin` between its two largest probabilities.
    """

    logprob: float
    entropy: float
    margin: float


@dataclass(frozen=True, slots=True)
class Started:
    """First event: the request has left the queue."""

    request_id: str
    model: str
    blend: Blend | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer. `text` is always whole characters; a token may add none. One signal a token, if wanted.

    `tokens` were written since the last Delta; none where only text came that had been held back.
    """

    text: str
    signals: tuple[TokenSignal, ...] = ()
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of an answer that succeeded."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Event: TypeAlias = Started | Delta | Finished
