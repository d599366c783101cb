"""One attempt of a turn: a request at one engine, and what came of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.completion import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.engine import Delta, GenerateRequest, Started
    from crayon.privacy.redaction import Restorer
    from crayon.router.decide import CalibratedGate
    from crayon.router.hardness import HardnessGate


@dataclass(slots=True)
class Attempt:
    """One request at one engine. `first_by`: when its first token must be there for it to go on."""

    source: Source
    request: GenerateRequest
    gate: HardnessGate | CalibratedGate | None = None
    first_by: float | None = None
    first_at: float | None = None
    started: Started | None = None
    held: list[str] = field(default_factory=list)
    tokens: int = 0
    restorer: Restorer | None = None
    closed: bool = False  # whether the answer is one of a closed set
    probability: float | None = None  # of that answer
    signals: int = 0  # tokens that the model chose
    withheld: float = 0.0  # of their probability, in all

    def see(self, delta: Delta) -> None:
        """Count a piece's tokens and signals."""
        self.tokens += delta.tokens
        self.signals += len(delta.signals)
        self.withheld += sum(signal.withheld for signal in delta.signals)

    @property
    def mean_withheld(self) -> float | None:
        """How much of its probability the model gave to what the constraint did not allow, where that is known."""
        known = self.request.constraint is not None and self.source is Source.DEVICE and self.signals > 0
        return self.withheld / self.signals if known else None

    def hold(self, delta: Delta, clock: Callable[[], float]) -> None:
        """Keep a piece back until the gate has decided."""
        if self.first_at is None and delta.signals:
            self.first_at = clock()
        self.held.append(delta.text)

    def held_ms(self, clock: Callable[[], float]) -> float:
        """Return for how long the first token has been held back."""
        return 0.0 if self.first_at is None else 1000.0 * (clock() - self.first_at)
