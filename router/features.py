"""What the gates saw of a query: numbers only, never its text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.engine import TokenSignal

_NONE_SEEN: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TokenFeatures:
    """Aggregates over a device answer's first tokens (natural logarithms; all 0 before the first)."""

    tokens: int = 0
    mean_logprob: float = 0.0
    min_logprob: float = 0.0
    mean_entropy: float = 0.0
    max_entropy: float = 0.0
    mean_margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Features:
    """Everything a routing decision rests on: cosine similarity to each scope, and the tokens read so far."""

    scope_similarity: Mapping[str, float] = field(default_factory=lambda: _NONE_SEEN)
    tokens: TokenFeatures = field(default_factory=TokenFeatures)


class RunningSignals:
    """Running aggregates over token signals, one pass and constant memory.

    A log-probability that is not a number counts as impossible (minus infinity) and one above 0 as 0, so that
    a broken signal can only make an answer look less sure.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._logprob = self._entropy = self._margin = 0.0
        self._min_logprob = 0.0
        self._max_entropy = 0.0

    def add(self, signal: TokenSignal) -> None:
        """Take in one more token."""
        logprob = -math.inf if math.isnan(signal.logprob) else min(signal.logprob, 0.0)
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
        )
