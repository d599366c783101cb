"""A circuit breaker: after some failures in a row, stop asking for a while, then let one request try."""

from __future__ import annotations

import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


FAILURES = 3
COOLDOWN_S = 5.0


class BreakerState(StrEnum):
    """CLOSED lets everything through, OPEN nothing, HALF_OPEN one request at a time, which decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Counts failures in a row; safe to use from any thread.

    Args:
        failures: how many in a row open it.
        cooldown: seconds until one request may try again.
        clock: seconds, monotonic.
    """

    def __init__(
        self, *, failures: int = FAILURES, cooldown: float = COOLDOWN_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = failures
        self._cooldown = cooldown
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._opened_at: float | None = None
        self._probing = False

    def fresh(self) -> Breaker:
        """Return another one with the same settings, closed."""
        return Breaker(failures=self._most, cooldown=self._cooldown, clock=self._clock)

    @property
    def state(self) -> BreakerState:
        """What a request would meet now."""
        with self._lock:
            if self._opened_at is None:
                return BreakerState.CLOSED
            return BreakerState.OPEN if self._left() > 0 or self._probing else BreakerState.HALF_OPEN

    @property
    def failures(self) -> int:
        """Failures in a row so far."""
        with self._lock:
            return self._failed

    @property
    def retry_after(self) -> float:
        """Seconds until a request may try; 0 if it may now."""
        with self._lock:
            return max(0.0, self._left())

    def allow(self) -> bool:
        """Ask before a request. One that is allowed must report with `success`, `failure` or `neutral`."""
        with self._lock:
            if self._opened_at is None:
                return True
            if self._left() > 0 or self._probing:
                return False
            self._probing = True
            return True

    def success(self) -> None:
        """Report that the server answered: close."""
        with self._lock:
            self._failed, self._opened_at, self._probing = 0, None, False

    def failure(self) -> None:
        """Report that the server could not be reached or did not answer in time."""
        with self._lock:
            self._failed += 1
            if self._probing or self._failed >= self._most:
                self._opened_at, self._probing = self._clock(), False

    def neutral(self) -> None:
        """Report that the request ended without telling anything about the server, such as by cancellation."""
        with self._lock:
            self._probing = False

    def _left(self) -> float:
        return 0.0 if self._opened_at is None else self._opened_at + self._cooldown - self._clock()
