"""What the gates saw of a query: numbers only, never its text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crayon.engine import TokenSignal

# Tokens held for the quantile.
MAX_HELD = 64
_LOW = 0.1
_NONE_SEEN: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TokenFeatures:
    """Aggregates over a device answer's first tokens (natural logarithms; all 0 before the first).

    `low_logprob` is the 10 % quantile: of 10 tokens or fewer the least likely one, and of more the one with a tenth
    at or below it; only the first 64 count. `first_entropy` is that of the first token's distribution.
    """

    tokens: int = 0
    mean_logprob: float = 0.0
    min_logprob: float = 0.0
    mean_entropy: float = 0.0
    max_entropy: float = 0.0
    mean_margin: float = 0.0
    first_entropy: float = 0.0
    low_logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class ChoiceFeatures:
    """How the device's probability is spread over the options of a choice (they sum to 1).

    Args:
        max_prob: of the likeliest option.
        margin: between the two likeliest (with one option: 1).
        entropy: natural logarithm; from 0 to that of `options`.
        options: how many there are.
    """

    max_prob: float
    margin: float
    entropy: float
    options: int


@dataclass(frozen=True, slots=True)
class Features:
    """Everything a routing decision rests on; None is what was not measured.

    Args:
        scope_similarity: cosine to each scope.
        tokens: aggregates of the answer's tokens read so far.
        choice: where options were scored instead.
        scope_margin: scope score minus threshold of the closest scope, 0 or more inside.
    """

    scope_similarity: Mapping[str, float] = field(default_factory=lambda: _NONE_SEEN)
    tokens: TokenFeatures = field(default_factory=TokenFeatures)
    choice: ChoiceFeatures | None = None
    scope_margin: float | None = None


def choice_features(logprobs: Sequence[float]) -> ChoiceFeatures:
    """Return the features of a choice from its options' log-probabilities, shape (options,), by a softmax over them.

    Raises:
        InvalidRequestError: there is no option, a value is NaN or plus infinity, or all are minus infinity.
    """
    if not len(logprobs):
        raise InvalidRequestError("logprobs", "is empty; pass one log-probability an option")
    for i, value in enumerate(logprobs):
        if math.isnan(value) or value == math.inf:
            raise InvalidRequestError(f"logprobs[{i}]", f"must be a log-probability, not {value}")
    most = max(logprobs)
    if most == -math.inf:
        raise InvalidRequestError("logprobs", "are all minus infinity: no option is possible")
    parts = sorted((math.exp(value - most) for value in logprobs), reverse=True)
    total = sum(parts)
    probs = [part / total for part in parts]
    entropy = -sum(p * math.log(p) for p in probs if p > 0)
    return ChoiceFeatures(probs[0], probs[0] - (probs[1] if len(probs) > 1 else 0.0), max(0.0, entropy), len(probs))


class RunningSignals:
    """Running aggregates over token signals, one pass and constant memory (64 numbers at most are held).

    A log-probability that is not a number counts as impossible (minus infinity) and one above 0 as 0, so that
    a broken signal can only make an answer look less sure.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._logprob = self._entropy = self._margin = 0.0
        self._min_logprob = 0.0
        self._max_entropy = self._first_entropy = 0.0
        self._held: list[float] = []

    def add(self, signal: TokenSignal) -> None:
        """Take in one more token."""
        logprob = -math.inf if math.isnan(signal.logprob) else min(signal.logprob, 0.0)
        if not self.tokens:
            self._first_entropy = signal.entropy
        if self.tokens < MAX_HELD:
            self._held.append(logprob)
        self.tokens += 1
        self._logprob += logprob
        self._entropy += signal.entropy
        self._margin += signal.margin
        self._min_logprob = min(self._min_logprob, logprob)
        self._max_entropy = max(self._max_entropy, signal.entropy)

    @property
    def total_logprob(self) -> float:
        """Sum of the log-probabilities (0 before the first token)."""
        return self._logprob

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability per token (0 before the first token)."""
        return self._logprob / self.tokens if self.tokens else 0.0

    def features(self) -> TokenFeatures:
        """Return the aggregates so far."""
        n = max(self.tokens, 1)
        return TokenFeatures(
            tokens=self.tokens,
            mean_logprob=self._logprob / n,
            min_logprob=self._min_logprob,
            mean_entropy=self._entropy / n,
            max_entropy=self._max_entropy,
            mean_margin=self._margin / n,
            first_entropy=self._first_entropy,
            low_logprob=sorted(self._held)[math.ceil(_LOW * len(self._held)) - 1] if self._held else 0.0,
        )
