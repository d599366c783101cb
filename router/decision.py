"""One routing decision, as it is logged and folded into the answer's `Route`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.router.features import Features

if TYPE_CHECKING:
    from crayon.completion import Reason, Source


@dataclass(frozen=True, slots=True)
class Decision:
    """Send the query to `source` for `reason`; `score` against `threshold` where a gate decided."""

    source: Source
    reason: Reason
    score: float | None = None
    threshold: float | None = None
    scope: str | None = None
    features: Features = field(default_factory=Features)
