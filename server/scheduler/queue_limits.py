"""How much may wait: so many requests, so many tokens of prompts, and of these no client nearly all.

A client may hold `CLIENT_FACTOR` times as much of the queue as is free ("dynamic queue length thresholds", Choudhury
and Hahne 1998). So whoever floods it leaves a quarter of the room that it found to those who come after. One request
alone counts as no more than the rest: whatever waits, somebody else finds room.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Self

from crayon.errors import ConfigError, InvalidRequestError, OverloadedError
from crayon.server.steps.request import Kind

if TYPE_CHECKING:
    from crayon.server.steps.request import Request

CLIENT_FACTOR = 3
# Few callers have the patience to wait until a cache was filled more often than that.
CACHES, LEAST_TOKENS = 4, 131072
SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.1, 60.0
_REMEMBERED = 16  # departures that tell the pace


class QueueBounds:
    """Counts waiting requests, and refuses too many. Clocks are the caller's; not safe for several threads.

    Args:
        requests: most requests that wait.
        tokens: most tokens of their prompts and of what they want scored or encoded, and the most of one request that
            scores or encodes; a prompt that has more is taken if nobody else waits.

    Raises:
        ConfigError: a bound is less than 1.
    """

    def __init__(self, requests: int, tokens: int) -> None:
        for key, value in (("max_queue", requests), ("max_queue_tokens", tokens)):
            if value < 1:
                raise ConfigError(key, f"must be at least 1, not {value}")
        self._most = requests
        self._most_tokens = tokens
        self._largest = tokens * CLIENT_FACTOR // (CLIENT_FACTOR + 1)
        self.queued = 0
        self.queued_tokens = 0
        self.refused: Counter[str] = Counter()
        """How many were turned away, by the bound: "requests", "tokens", "client", "size"; engines may count others."""
        self._requests: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._left: deque[float] = deque(maxlen=_REMEMBERED)
        self._promised = 0.0
        """When the last one that was turned away should find room."""

    @classmethod
    def of(cls, requests: int, tokens: int | None, cache: int) -> Self:
        """Return the bounds of an engine with so many tokens of cache; no bound of `tokens` is one by the cache."""
        return cls(requests, max(CACHES * cache, LEAST_TOKENS) if tokens is None else tokens)

    def enter(self, request: Request, now: float, seconds_per_token: float) -> None:
        """Count a request in.

        Args:
            request: who wants to wait.
            now: seconds, monotonic.
            seconds_per_token: how long a token takes, while nobody has left the queue yet.

        Raises:
            InvalidRequestError: it wants more scored or encoded than one request may.
            OverloadedError: there is no room; `retry_after` says when there should be.
        """
        if len(request.branches) > 1:
            self.check_size(request.kind, request.charge)
        tokens = self._counted(request)
        bound, said = self._full(request)
        if bound:
            self.refused[bound] += 1
            places = 1.0
            if bound == "tokens":
                over = self.queued_tokens + request.charge - self._most_tokens
                places = max(1.0, over * self.queued / self.queued_tokens)
            subject = request.client if bound == "client" else "server"
            raise OverloadedError(said, self._retry(now, seconds_per_token, places), subject)
        self.queued += 1
        self.queued_tokens += tokens
        self._requests[request.client] += 1
        self._tokens[request.client] += tokens

    def check_size(self, kind: Kind, tokens: int) -> None:
        """Check that a request of several parts is not too large in all, or cannot be, where `tokens` are the fewest.

        Raises:
            InvalidRequestError: it is.
        """
        if tokens > self._most_tokens:
            self.refused["size"] += 1
            field = "texts" if kind is Kind.ENCODE else "continuations"
            raise InvalidRequestError(
                field, f"{tokens} tokens in all, at most {self._most_tokens}; send several requests"
            )

    def leave(self, request: Request, now: float) -> None:
        """Count a request out: it runs, or is given up."""
        tokens = self._counted(request)
        self.queued -= 1
        self.queued_tokens -= tokens
        for counter, part in ((self._requests, 1), (self._tokens, tokens)):
            counter[request.client] -= part
            if counter[request.client] <= 0:
                del counter[request.client]
        # A pace is one of busy times only.
        if self.queued:
            self._left.append(now)
        else:
            self._left.clear()
            self._promised = 0.0

    def _counted(self, request: Request) -> int:
        return min(request.charge, self._largest)

    def _full(self, request: Request) -> tuple[str, str]:
        if self.queued >= self._most:
            return "requests", f"{self.queued} requests are waiting already"
        if not self.queued:
            return "", ""
        free = self._most_tokens - self.queued_tokens
        if request.charge > free:
            return "tokens", f"{self.queued_tokens} tokens of {self.queued} requests are waiting already"
        # Without a name nobody is known to be another.
        if not request.client:
            return "", ""
        mine, tokens = self._requests[request.client], self._tokens[request.client]
        if mine and (mine >= CLIENT_FACTOR * (self._most - self.queued) or tokens >= CLIENT_FACTOR * free):
            return "client", f"{mine} of the {self.queued} requests that are waiting are this client's"
        return "", ""

    def _retry(self, now: float, seconds_per_token: float, places: float) -> float:
        # The time of one departure: as lately seen, a standstill included, else by the tokens that wait.
        each = seconds_per_token * self.queued_tokens / self.queued
        if len(self._left) > 1:
            each = (now - self._left[0]) / len(self._left)
        # Everybody who is turned away is promised a place of its own, so that they do not all come back for the first.
        self._promised = min(max(now, self._promised) + each * places, now + LONGEST_RETRY_S)
        return round(max(self._promised - now, SHORTEST_RETRY_S), 1)
