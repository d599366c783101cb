"""What a calibration says of one query: who answers and why, before the device decodes and after its first tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.completion import Reason, Source
from crayon.router.features import ChoiceFeatures, Features, RunningSignals, TokenFeatures
from crayon.router.hardness import Verdict
from crayon.router.signals import SIGNALS, signal_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.engine import TokenSignal
    from crayon.router.record import CalibrationRecord
    from crayon.router.rules import ProfileRule
    from crayon.router.scope import ScopeVerdict

# Those that are read from the tokens of an answer: the device has to decode for them.
TOKEN_SIGNALS = frozenset(
    name for name, read in SIGNALS.items() if read(Features(tokens=TokenFeatures(1))) is not None
)  # fmt: skip
# Those that are read from a choice among given texts: the device has to score them.
CHOICE_SIGNALS = frozenset(
    name for name, read in SIGNALS.items() if read(Features(choice=ChoiceFeatures(1.0, 1.0, 0.0, 2))) is not None
)  # fmt: skip
# The most that a signal can be: a threshold above it lets nothing pass, and needs no decoding to know.
_CEILINGS = {
    "mean_logprob": 0.0, "min_logprob": 0.0, "low_logprob": 0.0, "mean_entropy": 0.0, "max_entropy": 0.0,
    "first_entropy": 0.0, "mean_margin": 1.0, "margin": 1.0, "max_prob": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is decided about a query.

    Args:
        source: who answers; None: the device decodes first, and its signal decides.
        reason: why; without a source, what holds if the device keeps it.
        benefit: the estimated gain of sending the query, from -1 to 1.
        score: the number that decided: a signal or a scope score; or, for `NO_GAIN` and `SERVER_BETTER`, how much
            more often the device is estimated to be right than the server.
        threshold: at or above which the device answers.
        hardness: the threshold of the hardness signal for this query; None where the signal decides nothing.
    """

    source: Source | None
    reason: Reason
    benefit: float
    score: float | None = None
    threshold: float | None = None
    hardness: float | None = None


def decide(
    record: CalibrationRecord,
    verdict: ScopeVerdict | None,
    features: Features | None = None,
    *,
    profile: str | None = None,
    lam: float | None = None,
    coin: float = 1.0,
    of_choices: bool = False,
) -> Ruling | None:
    """Return who answers a query, or None: it belongs to nothing that was calibrated.

    Args:
        record: the calibration.
        verdict: where the query belongs, with thresholds that the record's rules have moved; None without scopes.
        features: what was measured of the device's answer; None before it decodes.
        profile: that which answers where there is no verdict.
        lam: a query is sent if it gains more than this; the calibration's by default.
        coin: a number in [0, 1), new for each query, for queries of equal gain.
        of_choices: whether the answer will be a choice among given texts.
    """
    calibration = record.calibration
    rule = _rule(record, verdict, profile)
    if rule is None:
        return None
    tie = calibration.tie if lam is None else 0.0
    lam = calibration.lam if lam is None else lam
    inside = verdict is None or verdict.inside
    hardness = rule.at(lam).hardness if inside else None
    ceiling = _CEILINGS.get(record.signal)
    if hardness is not None and ceiling is not None and hardness > ceiling:
        benefit = rule.benefit_of(ceiling)
        return Ruling(Source.SERVER, Reason.SERVER_BETTER, benefit, 0.0 - benefit, 0.0 - lam)
    if hardness is not None and features is None and waits(record, of_choices=of_choices):
        reason = Reason.CONFIDENT if verdict is None else Reason.IN_SCOPE
        return Ruling(None, reason, rule.benefit, hardness=hardness)
    sure = (
        None if hardness is None else signal_value(record.signal, features or Features(scope_margin=_margin(verdict)))
    )
    benefit = rule.benefit_of(sure)
    sent = bool(benefit > 0 and (benefit > lam or (benefit == lam and coin < tie)))
    source = Source.SERVER if sent else Source.DEVICE
    if sure is None:
        if sent and verdict is not None and not inside:
            return Ruling(source, Reason.OUT_OF_SCOPE, benefit, verdict.score, verdict.threshold)
        # Turned round, so that at or above the threshold the device answers, as for every other reason.
        return Ruling(source, Reason.SERVER_BETTER if sent else Reason.NO_GAIN, benefit, 0.0 - benefit, 0.0 - lam)
    if sent:
        return Ruling(source, Reason.UNSURE, benefit, sure, hardness, hardness)
    if verdict is not None:
        return Ruling(source, Reason.IN_SCOPE, benefit, verdict.score, verdict.threshold, hardness)
    return Ruling(source, Reason.CONFIDENT, benefit, sure, hardness, hardness)


def waits(record: CalibrationRecord, *, of_choices: bool = False) -> bool:
    """Return whether the record's signal is read from an answer of this kind, so that the device goes first."""
    return record.signal in (CHOICE_SIGNALS if of_choices else TOKEN_SIGNALS)


def _rule(record: CalibrationRecord, verdict: ScopeVerdict | None, profile: str | None) -> ProfileRule | None:
    if verdict is not None and not verdict.inside:
        return record.calibration.outside
    name = profile if verdict is None else verdict.name
    return next((rule for rule in record.calibration.rules if rule.profile == name), None)


def _margin(verdict: ScopeVerdict | None) -> float | None:
    return None if verdict is None else verdict.score - verdict.threshold


def _ignore(_: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class CalibratedRouter:
    """A record in use for one query; without input or output.

    Args:
        record: the calibration.
        lam: in place of the calibration's, as the share's keeper has it.
        coin: as in `decide`.
        hold: whether the device's tokens may be held back for its signal; if not, it answers what is inside.
        of_choices: whether the answer is a choice among given texts: one token, drawn from as many as there are.
        decided: is told the estimated gain once it is decided who answers.
    """

    record: CalibrationRecord
    lam: float | None = None
    coin: float = 1.0
    hold: bool = True
    of_choices: bool = False
    decided: Callable[[float], None] = _ignore

    def before(self, verdict: ScopeVerdict | None, profile: str | None = None) -> Ruling | None:
        """Return what is decided before the device decodes; None: nothing that was calibrated."""
        if not self.hold and (verdict is None or verdict.inside):
            return None
        ruling = self._decide(verdict, profile)
        if ruling is not None and ruling.source is not None:
            self.decided(ruling.benefit)
        return ruling

    def peek(self, verdict: ScopeVerdict | None, profile: str | None = None) -> Ruling | None:
        """Return what `before` does, and tell nobody."""
        return self._decide(verdict, profile)

    def after(self, features: TokenFeatures, verdict: ScopeVerdict | None, profile: str | None = None) -> Ruling | None:
        """Return what is decided by the device's first tokens."""
        return self._decide(verdict, profile, self.seen(features, verdict))

    def seen(self, features: TokenFeatures, verdict: ScopeVerdict | None) -> Features:
        """Return what was measured of a query, by the kind of its answer."""
        similarity = verdict.similarity if verdict is not None else {}
        if not self.of_choices:
            return Features(similarity, features, scope_margin=_margin(verdict))
        most = math.exp(features.mean_logprob)
        # How many options there were plays no part in any signal.
        choice = ChoiceFeatures(most, features.mean_margin, features.first_entropy, 2)
        return Features(similarity, choice=choice, scope_margin=_margin(verdict))

    def _decide(
        self, verdict: ScopeVerdict | None, profile: str | None, features: Features | None = None
    ) -> Ruling | None:
        return decide(
            self.record,
            verdict,
            features,
            profile=profile,
            lam=self.lam,
            coin=self.coin,
            of_choices=self.of_choices,
        )

    def gate(self, verdict: ScopeVerdict | None, profile: str | None = None) -> CalibratedGate:
        """Return what holds the device's first tokens back until its signal has been read."""
        return CalibratedGate(self, verdict, profile)


class CalibratedGate:
    """Reads as many tokens as the calibration did, then lets the answer go or sends the query away.

    It takes the place of `HardnessGate`. It decides by the estimated gain, which the threshold only restates.
    """

    def __init__(self, router: CalibratedRouter, verdict: ScopeVerdict | None, profile: str | None) -> None:
        self._router = router
        self._place = (verdict, profile)
        self._seen = RunningSignals()
        self._verdict = Verdict.HOLD
        self._ruling = router.peek(verdict, profile)

    @property
    def verdict(self) -> Verdict:
        """The verdict so far; RELEASE and ESCALATE are final."""
        return self._verdict

    @property
    def hold_tokens(self) -> int:
        """At most this many tokens are held back."""
        return 1 if self._router.of_choices else self._router.record.hold_tokens

    @property
    def threshold(self) -> float | None:
        """At or above which the answer is let go."""
        return None if self._ruling is None else self._ruling.hardness

    @property
    def score(self) -> float | None:
        """The signal of the tokens seen, or None before the first."""
        if not self._seen.tokens:
            return None
        return signal_value(self._router.record.signal, self._router.seen(self._seen.features(), self._place[0]))

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
            if self._seen.tokens >= self.hold_tokens:
                self._settle()
        return self._verdict

    def finish(self) -> Verdict:
        """Decide on what there is, the answer has ended; one without a token escalates, it helps nobody."""
        if self._verdict is Verdict.HOLD:
            if self._seen.tokens:
                self._settle()
            else:
                self._verdict = Verdict.ESCALATE
        return self._verdict

    def _settle(self) -> None:
        ruling = self._router.after(self._seen.features(), *self._place)
        if ruling is not None:
            self._router.decided(ruling.benefit)
        self._verdict = Verdict.ESCALATE if ruling and ruling.source is Source.SERVER else Verdict.RELEASE
