"""The hardness gate: whether the device is sure enough of its own first tokens.

Signal: mean token log-probability of the held-back tokens, the plainest signal that holds up on small models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError
from crayon.router.features import MAX_HELD, RunningSignals, TokenFeatures

if TYPE_CHECKING:
    from crayon.engine import TokenSignal

# Mean natural log-probability per token: -1.0 is a geometric mean probability of 37 %. A documented default,
# not a calibrated one: what it means depends on the model, its quantization and the task.
DEFAULT_THRESHOLD = -1.0
MAX_HOLD_TOKENS = MAX_HELD


class Verdict(StrEnum):
    """What to do with the tokens held back so far."""

    HOLD = "hold"
    RELEASE = "release"
    ESCALATE = "escalate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardness:
    """Settings of the hardness gate.

    Args:
        threshold: mean log-probability (natural, 0 or less) at or above which the device's answer is let go.
        hold_tokens: at most this many tokens are held back (1 to 64).
        clear_tokens: from this many tokens on a clear case is decided early.
        clear_margin: how far from the threshold the running mean must be to be clear; `math.inf` never is.
        choice_margin: the margin (0 to 1) at or above which the device's choice among given texts is let go; None lets
            every choice go, since no margin is calibrated.

    Raises:
        InvalidRequestError: a value is out of range.
    """

    threshold: float = DEFAULT_THRESHOLD
    hold_tokens: int = 8
    clear_tokens: int = 4
    clear_margin: float = 0.5
    choice_margin: float | None = None

    def __post_init__(self) -> None:
        _number("hardness.threshold", self.threshold)
        if not -math.inf < self.threshold <= 0:
            raise InvalidRequestError("hardness.threshold", f"must be finite and at most 0, not {self.threshold}")
        _count("hardness.hold_tokens", self.hold_tokens)
        _count("hardness.clear_tokens", self.clear_tokens)
        _number("hardness.clear_margin", self.clear_margin)
        if not self.clear_margin >= 0:
            raise InvalidRequestError("hardness.clear_margin", f"must be 0 or more, not {self.clear_margin}")
        if self.choice_margin is not None:
            _number("hardness.choice_margin", self.choice_margin)
            if not 0 <= self.choice_margin <= 1:
                raise InvalidRequestError("hardness.choice_margin", f"must be from 0 to 1, not {self.choice_margin}")


class HardnessGate:
    """Reads the signals of one answer, one at a time, until it lets the answer go or sends it away.

    It sees at most `hold_tokens` tokens, and its verdict depends on nothing else.
    """

    def __init__(self, settings: Hardness | None = None) -> None:
        self.settings = settings or Hardness()
        self._seen = RunningSignals()
        self._verdict = Verdict.HOLD

    @property
    def verdict(self) -> Verdict:
        """The verdict so far; RELEASE and ESCALATE are final."""
        return self._verdict

    @property
    def hold_tokens(self) -> int:
        """At most this many tokens are held back."""
        return self.settings.hold_tokens

    @property
    def threshold(self) -> float:
        """At or above which the answer is let go."""
        return self.settings.threshold

    @property
    def score(self) -> float | None:
        """Mean log-probability of the tokens seen, or None before the first."""
        return self._seen.mean_logprob if self._seen.tokens else None

    @property
    def tokens(self) -> int:
        """How many tokens it has seen."""
        return self._seen.tokens

    def features(self) -> TokenFeatures:
        """Return the aggregates of the tokens seen."""
        return self._seen.features()

    def push(self, signal: TokenSignal) -> Verdict:
        """Take in the next token; ignored once the verdict is final."""
        if self._verdict is Verdict.HOLD:
            self._seen.add(signal)
            self._verdict = self._judge()
        return self._verdict

    def finish(self) -> Verdict:
        """Decide on what there is, the answer has ended; one without a token escalates, it helps nobody."""
        if self._verdict is Verdict.HOLD:
            self._verdict = self._compare() if self._seen.tokens else Verdict.ESCALATE
        return self._verdict

    def _judge(self) -> Verdict:
        settings, seen = self.settings, self._seen
        if seen.tokens >= settings.hold_tokens:
            return self._compare()
        if seen.total_logprob / settings.hold_tokens < settings.threshold:
            return Verdict.ESCALATE  # even with certain tokens from here on, the mean stays below
        if seen.tokens >= settings.clear_tokens:
            # Only strictly clear cases, so that a margin of infinity switches this off.
            if seen.mean_logprob > settings.threshold + settings.clear_margin:
                return Verdict.RELEASE
            if seen.mean_logprob < settings.threshold - settings.clear_margin:
                return Verdict.ESCALATE
        return Verdict.HOLD

    def _compare(self) -> Verdict:
        return Verdict.RELEASE if self._seen.mean_logprob >= self.settings.threshold else Verdict.ESCALATE


class ChoiceGate(HardnessGate):
    """Judges a choice among given texts by its margin: a choice is one token, drawn from as many as there are texts."""

    @property
    def score(self) -> float | None:
        """The margin, or None before the choice."""
        return self._seen.features().mean_margin if self._seen.tokens else None

    @property
    def threshold(self) -> float:
        """What the margin is compared with."""
        return self.settings.choice_margin or 0.0

    def _judge(self) -> Verdict:
        return self._compare()

    def _compare(self) -> Verdict:
        return Verdict.RELEASE if self._seen.features().mean_margin >= self.threshold else Verdict.ESCALATE


def choice_gate(settings: Hardness) -> ChoiceGate | None:
    """Return what judges a choice, or None where every choice is let go."""
    return None if settings.choice_margin is None else ChoiceGate(settings)


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InvalidRequestError(name, f"must be a number, not {value!r}")


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_HOLD_TOKENS:
        raise InvalidRequestError(name, f"must be a whole number from 1 to {MAX_HOLD_TOKENS}, not {value!r}")
