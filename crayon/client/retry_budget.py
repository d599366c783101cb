"""How much may be tried again: a server that fails everything is not asked several times as often for it."""

from __future__ import annotations

import threading

# As in gRPC's retryThrottling: of ten tokens each failure takes one, each success gives a tenth of one back, and
# nothing is tried again while five or fewer are left. So in the long run at most one request in ten is sent again.
MOST_TOKENS = 10.0
TOKEN_RATIO = 0.1


class RetryBudget:
    """Tokens that retries need; safe to use from any thread."""

    def __init__(self, *, most: float = MOST_TOKENS, ratio: float = TOKEN_RATIO) -> None:
        self._most = most
        self._ratio = ratio
        self._lock = threading.Lock()
        self._tokens = most

    @property
    def tokens(self) -> float:
        """What is left; above half of the most there may be, requests are tried again."""
        with self._lock:
            return self._tokens

    @property
    def left(self) -> bool:
        """Whether there is enough for another attempt."""
        return self.tokens > self._most / 2

    def failure(self) -> bool:
        """Count an attempt that found no server; return whether it may be followed by another."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)
            return self._tokens > self._most / 2

    def success(self) -> None:
        """Count an attempt that succeeded. A refusal is neither: it says nothing about the server's health."""
        with self._lock:
            self._tokens = min(self._most, self._tokens + self._ratio)
