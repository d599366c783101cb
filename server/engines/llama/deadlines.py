"""Requests whose deadlines cannot be met are refused as soon as that is clear, not when the deadlines pass."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from crayon.errors import DeadlineExceededError, OverloadedError
from crayon.server.scheduler.deadlines import late_alone, late_in_queue, margin

if TYPE_CHECKING:
    from crayon.errors import CrayonError
    from crayon.server.cost.online import LiveCost
    from crayon.server.scheduler import Lengths, Request, State, StepLimits

_BESIDE_S = 0.005
"""Seconds of a step in which waiting requests are judged: beside it, but on the same cores."""
_MAX_RETRY_S = 60.0


class DeadlineCheck:
    """Finds requests that are too late; only where the cost of steps has predicted well, and never one that has begun.

    Args:
        limits: limits of a step.
        cost: what steps cost.
        lengths: how long answers were.
    """

    def __init__(self, limits: StepLimits, cost: LiveCost, lengths: Lengths | None) -> None:
        self._limits = limits
        self._cost = cost
        self._lengths = lengths
        self._unchecked: deque[str] = deque()

    def alone(self, request: Request, now: float) -> CrayonError | None:
        """Return the refusal of a request that would be too late on an idle engine. The others are judged later."""
        cost = self._cost.now
        if request.deadline is None or request.deadline <= now or cost is None or not self._cost.confident:
            return None
        late = late_alone(request, now, self._limits, cost, self._lengths, margin(self._cost.error or 0.0))
        if late is None:
            self._unchecked.append(request.id)
            return None
        return DeadlineExceededError(f"refused at once: {late}")

    def queued(self, state: State) -> list[tuple[str, CrayonError]]:
        """Return refusals of some of the waiting requests that are too late for what is before them."""
        found: list[tuple[str, CrayonError]] = []
        cost, begun = self._cost.now, time.monotonic()
        while self._unchecked and cost is not None and self._cost.confident:
            request = state.find(self._unchecked.popleft())
            if request is not None and not request.cancelled and request.id not in state.running:
                stretch = margin(self._cost.error or 0.0)
                late = late_in_queue(request, state, self._limits, cost, self._lengths, stretch)
                if late is not None:
                    wait = min(max(late.needs - late.left, 1.0), _MAX_RETRY_S)
                    found.append((request.id, OverloadedError(f"refused at once: {late}", retry_after=round(wait, 1))))
            if time.monotonic() - begun > _BESIDE_S:
                break
        return found
