"""How long one engine call takes, from what is in it.

    T = base + max(per_token * tokens, weights) + per_context * context + per_output * outputs
        + per_switch * switches

The weights are read once a call, while its tokens are computed: the longer of the two is paid. Where they meet is the
ridge. A call below it takes as long as one at the ridge. How the terms are measured: docs/explanation/cost-model.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crayon.server.steps.step_plan import Row

MOST_TOKENS = 2**31
"""What "no limit" is, as in llama.cpp's own counters."""


class StepShape(NamedTuple):
    """What one engine call computes.

    Args:
        tokens: tokens computed.
        context: positions attended, summed over the computed tokens.
        outputs: rows of logits.
        switches: changes of the adapters before it.
    """

    tokens: int
    context: int = 0
    outputs: int = 0
    switches: int = 0

    def resized(self, tokens: int) -> StepShape:
        """Return a call of the same mix with `tokens` tokens: context and outputs in proportion, rounded up."""
        mine = max(self.tokens, 1)
        return StepShape(tokens, -(-self.context * tokens // mine), -(-self.outputs * tokens // mine), self.switches)


def attended(start: int, tokens: int) -> int:
    """Return the positions that `tokens` tokens at `start`, `start + 1`, ... attend: each all before it and itself."""
    return tokens * start + tokens * (tokens + 1) // 2


def shape_of(rows: Iterable[Row], switches: int = 0, cells: int | None = None) -> StepShape:
    """Return the shape of a call of these rows.

    Args:
        rows: the rows of one engine call.
        switches: changes of the adapters before it.
        cells: for an engine whose attention runs over all used cells of its cache, whosever they are (llama.cpp with
            a unified cache), how many these are after the call; None: each sequence's own.
    """
    tokens = context = outputs = 0
    for row in rows:
        tokens += row.tokens
        outputs += row.logits
        context += attended(row.start, row.tokens) if cells is None else row.tokens * cells
    return StepShape(tokens, context, outputs, switches)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds of a call, term by term.

    Args:
        base: each call, whatever is in it.
        per_token: computing one token.
        weights: reading the weights once.
        per_context: attending to one position.
        per_output: one row of logits.
        per_switch: one change of adapters.

    Raises:
        ConfigError: a term is negative or not a number.
    """

    base: float = 0.0
    per_token: float = 0.0
    weights: float = 0.0
    per_context: float = 0.0
    per_output: float = 0.0
    per_switch: float = 0.0

    def __post_init__(self) -> None:
        for name, value in self.terms().items():
            if not 0 <= value < math.inf:
                raise ConfigError(name, f"must be 0 or more seconds, not {value}")

    def terms(self) -> dict[str, float]:
        """Return the terms by name."""
        return {name: getattr(self, name) for name in TERMS}

    @property
    def ridge(self) -> float:
        """Tokens at which computing takes as long as reading the weights; 0 if reading costs nothing."""
        if self.weights == 0:
            return 0.0
        return self.weights / self.per_token if self.per_token > 0 else math.inf

    def seconds(self, shape: StepShape) -> float:
        """Return the time that a call takes."""
        tokens, context, outputs, switches = shape
        # Each operation is monotonic, so the sum is too, rounding included: `most` relies on it.
        return (
            self.base
            + max(self.per_token * tokens, self.weights)
            + self.per_context * context
            + self.per_output * outputs
            + self.per_switch * switches
        )

    def scaled(self, factor: float) -> StepCost:
        """Return the cost on a machine that needs `factor` times as long."""
        return StepCost(**{name: value * factor for name, value in self.terms().items()})

    def in_calls(self, calls: int) -> StepCost:
        """Return the cost of `calls` calls that share all tokens equally, as if they were one."""
        return replace(self, base=self.base * calls, weights=self.weights * calls)


TERMS = ("base", "per_token", "weights", "per_context", "per_output", "per_switch")


def most(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest number up to `limit` that fits, where all smaller ones do too; 0 if none does."""
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, high * 2
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
