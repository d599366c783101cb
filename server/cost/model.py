"""How long a step takes, as far as the policy needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

# A step counts half after this many later ones: quick enough to follow a machine that gets busy.
_HALF_LIFE_STEPS = 64
# Tokens to which attention takes as long as all else of a token: 500 in a model of 135M, thousands in larger ones.
_ATTENDED = 500
_KEEP: float = 0.5 ** (1 / _HALF_LIFE_STEPS)


class DecodeLoad(NamedTuple):
    """What a step computes in any case: one token for each of so many answers.

    Args:
        decodes: answers being written.
        context: positions that their tokens attend, summed, in sequences of their own.
        cells: used cells of the whole cache.
    """

    decodes: int = 0
    context: int = 0
    cells: int = 0


ALONE = DecodeLoad()
"""Nothing."""


class CostModel(Protocol):
    """Predicts steps."""

    def seconds(self, tokens: int, batches: int = 1) -> float:
        """Return the time for `tokens` tokens in `batches` engine calls."""
        ...

    def tokens_within(self, seconds: float, batches: int = 1, load: DecodeLoad = ALONE) -> int:
        """Return how many tokens fit into `seconds`, those `load` included; may be 0."""
        ...

    def stretch(self, context: int) -> float:
        """Return how many times as long a token takes that attends to `context` others as one that attends to none."""
        ...


@dataclass(frozen=True, slots=True)
class LinearCost:
    """`T = base * batches + per_token * tokens`, in seconds; `observed` learns both from steps that ran.

    The other fields are the weighted sums of a least-squares line.
    """

    base: float = 0.02
    per_token: float = 0.005
    _w: float = 0.0
    _n: float = 0.0
    _nn: float = 0.0
    _t: float = 0.0
    _nt: float = 0.0

    def seconds(self, tokens: int, batches: int = 1) -> float:
        """Return the time for `tokens` tokens in `batches` engine calls."""
        return self.base * batches + self.per_token * tokens

    def tokens_within(self, seconds: float, batches: int = 1, load: DecodeLoad = ALONE) -> int:  # noqa: ARG002 - knows tokens only
        """Return how many tokens fit into `seconds`; may be 0."""
        room = seconds - self.base * batches
        if room <= 0:
            return 0
        return int(min(room / self.per_token, 2**31)) if self.per_token > 0 else 2**31

    def stretch(self, context: int) -> float:
        """Return a cautious guess: a line of tokens says nothing of what they attend to."""
        return 1.0 + context / _ATTENDED

    def observed(self, tokens: int, seconds: float) -> LinearCost:
        """Return the model with one more call of `tokens` tokens that took `seconds`."""
        w, n, nn = _KEEP * self._w + 1, _KEEP * self._n + tokens, _KEEP * self._nn + tokens * tokens
        t, nt = _KEEP * self._t + seconds, _KEEP * self._nt + tokens * seconds
        base, per_token = self.base, self.per_token
        spread = w * nn - n * n
        if spread > 1e-6 * w * nn:
            per_token = (w * nt - n * t) / spread
            base = (t - per_token * n) / w
        if spread <= 1e-6 * w * nn or per_token < 0 or base < 0:
            # One size seen so far, or noise larger than the slope: scale the last line to meet the mean.
            expected = self.base * w + self.per_token * n
            scale = t / expected if expected > 0 else 1.0
            base, per_token = self.base * scale, self.per_token * scale
        return LinearCost(base, per_token, w, n, nn, t, nt)
