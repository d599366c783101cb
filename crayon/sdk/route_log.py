"""What happened in a turn, written down as it happens and read out as the answer's `Route`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crayon.completion import Route, Source
from crayon.router.decision import Decision
from crayon.router.features import Features

if TYPE_CHECKING:
    from crayon.completion import Blend, PrivacyReport, Reason
    from crayon.errors import CrayonError
    from crayon.router.decide import CalibratedGate
    from crayon.router.hardness import HardnessGate
    from crayon.router.scope import ScopeVerdict
    from crayon.sdk.query_gate import ChosenProfile

logger = logging.getLogger("crayon.sdk")


@dataclass(slots=True)
class RouteLog:
    """Decisions and failures in order, and what they cost; the last decision is the one in force."""

    request_id: str
    server: str | None = None
    last_profile: str | None = None
    choice: ChosenProfile | None = None
    privacy: PrivacyReport | None = None
    decisions: list[Decision] = field(default_factory=list)
    failures: dict[Source, CrayonError] = field(default_factory=dict)
    scope: ScopeVerdict | None = None
    encode_ms: float | None = None
    holdback_ms: float | None = None
    discarded_tokens: int = 0
    bytes_sent: int = 0

    @property
    def last(self) -> Decision | None:
        """The decision in force, if one was taken."""
        return self.decisions[-1] if self.decisions else None

    def decide(
        self,
        source: Source,
        reason: Reason,
        score: float | None = None,
        threshold: float | None = None,
        gate: HardnessGate | CalibratedGate | None = None,
    ) -> None:
        """Write down one more decision; `gate` is the hardness gate that took it."""
        similarity = self.scope.similarity if self.scope else {}
        features = Features(similarity, gate.features()) if gate else Features(similarity)
        scope = self.scope.name if self.scope else None
        self.decisions.append(Decision(source, reason, score, threshold, scope, features))
        logger.debug("request %s: %s", self.request_id, self.decisions[-1])

    def route(self, decision: Decision, blend: Blend | None) -> Route:
        """Return the report of an answer given under `decision`."""
        failed = next((side for side in self.failures if side is not decision.source), None)
        # What was chosen for the device is not what a server answered with, unless the weights were sent there.
        chosen = self.choice if decision.source is Source.DEVICE or blend is not None else None
        support = chosen.support if chosen and decision.source is Source.DEVICE else None
        switched = chosen is not None and self.last_profile not in {None, chosen.profile}
        return Route(
            source=decision.source,
            reason=decision.reason,
            score=decision.score,
            threshold=decision.threshold,
            scope=decision.scope,
            fallback_from=failed,
            fallback_error=str(self.failures[failed]) if failed else None,
            blend=blend,
            customization=chosen.customization if chosen else None,
            profile=chosen.profile if chosen else None,
            evidence=support.kinds if support else (),
            switched_from=self.last_profile if switched else None,
            server=self.server if decision.source is Source.SERVER else None,
            bytes_sent=self.bytes_sent,
            encode_ms=self.encode_ms,
            holdback_ms=self.holdback_ms,
            discarded_tokens=self.discarded_tokens,
            privacy=self._privacy(decision.source),
        )

    def _privacy(self, source: Source) -> PrivacyReport | None:
        """Return what was found; no turn counts as left out where the device answered, which saw them all."""
        if self.privacy is None or source is Source.SERVER:
            return self.privacy
        return replace(self.privacy, dropped_turns=0) if self.privacy.found else None

    def explain(self, error: CrayonError) -> None:
        """Add to an error what had failed before it."""
        for side, before in self.failures.items():
            error.add_note(f"before that the {side} failed: {before}")
