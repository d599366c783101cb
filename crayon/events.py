"""What a stream carries: the events of one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from crayon.completion import Blend, FinishReason, Timings, Usage


@dataclass(frozen=True, slots=True)
class TokenSignal:
    """What the model thought of one token it wrote, from its unmodified distribution (natural logarithms).

    `logprob` of the token taken, `entropy` of the whole distribution, `margin` between its two largest probabilities,
    `withheld`: the probability of all tokens that the request's constraint did not allow (0 without one).
    """

    logprob: float
    entropy: float
    margin: float
    withheld: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """First event: the request has left the queue. `constrained`: its constraint is kept, where it has one."""

    request_id: str
    model: str
    blend: Blend | None = None
    constrained: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer. `text` is always whole characters; a token may add none. One signal a token, if wanted.

    `tokens` were written since the last Delta; none where only text came that had been held back. Tokens that a
    constraint left no choice about have no signal: the model was not asked.
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
