"""How much each client may ask for: requests at a time, requests and tokens a minute. Pure: its clock is given."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import ConfigError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# When a client has as many requests as it may, one of them will hardly end sooner.
CONCURRENT_RETRY_S = 1.0
_FORGET_FROM = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask for; None is no limit.

    Args:
        concurrent: requests at a time.
        requests_per_minute: requests a minute; so many may come at once after a rest.
        tokens_per_minute: tokens of prompts and answers a minute. They are charged when they are known, so one
            request may go beyond; then the next ones wait for longer.

    Raises:
        ConfigError: a limit is less than 1.
    """

    concurrent: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, f"must be at least 1 (or not set, for no limit), not {value}")


class _Account:
    """What one client has running and left."""

    __slots__ = ("requests", "running", "tokens")

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.running = 0
        self.requests = _bucket(limits.requests_per_minute, clock)
        self.tokens = _bucket(limits.tokens_per_minute, clock)

    @property
    def idle(self) -> bool:
        """Whether a new account would be the same."""
        buckets = (self.requests, self.tokens)
        return not self.running and all(bucket is None or bucket.full for bucket in buckets)


class ClientLimits:
    """Keeps every client within `limits`. Not for more than one thread.

    Args:
        limits: the same for every client.
        clock: seconds that never run backwards.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._forget_at = _FORGET_FROM

    def __len__(self) -> int:
        """How many clients are remembered."""
        return len(self._accounts)

    @contextlib.contextmanager
    def admit(self, client: str) -> Iterator[None]:
        """Let one request of `client` in for the time of the `with` block.

        Raises:
            OverloadedError: it has no more to spend now; `retry_after` says when it has. Nothing is charged for it.
        """
        account = self._account(client)
        self._check(client, account)
        if account.requests is not None:
            account.requests.charge(1)
        account.running += 1
        try:
            yield
        finally:
            account.running -= 1

    def charge(self, client: str, tokens: int) -> None:
        """Charge tokens that were computed for `client`."""
        if self._limits.tokens_per_minute is not None:
            bucket = self._account(client).tokens
            if bucket is not None:
                bucket.charge(tokens)

    def _check(self, client: str, account: _Account) -> None:
        most = self._limits.concurrent
        if most is not None and account.running >= most:
            said = f"this client has {most} requests running, as many as it may"
            raise OverloadedError(said, CONCURRENT_RETRY_S, client)
        # Tokens are charged later: what there is only has to be more than nothing.
        for bucket, what in ((account.requests, "requests"), (account.tokens, "tokens")):
            if bucket is not None and (wait := bucket.wait(1)):
                said = f"this client may have {bucket.capacity:.0f} {what} a minute, and had them"
                raise OverloadedError(said, wait, client)

    def _account(self, client: str) -> _Account:
        account = self._accounts.get(client)
        if account is None:
            if len(self._accounts) >= self._forget_at:
                self._accounts = {name: kept for name, kept in self._accounts.items() if not kept.idle}
                # Twice what is left, so that looking through all of them stays rare.
                self._forget_at = max(_FORGET_FROM, 2 * len(self._accounts))
            account = self._accounts[client] = _Account(self._limits, self._clock)
        return account


def _bucket(per_minute: int | None, clock: Callable[[], float]) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute, clock)


class TokenBucket:
    """Holds up to a minute's allowance, and refills at its rate.

    What is charged afterwards may leave a debt, which is waited out.

    Args:
        per_minute: how much is allowed a minute, and at once after a rest; more than 0.
        clock: seconds that never run backwards.
    """

    __slots__ = ("_clock", "_level", "_rate", "_then", "capacity")

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.capacity = float(per_minute)
        self._rate = per_minute / 60
        self._clock = clock
        self._level = self.capacity
        self._then = clock()

    @property
    def level(self) -> float:
        """What is left now; less than 0 is a debt."""
        now = self._clock()
        self._level = min(self.capacity, self._level + max(0.0, now - self._then) * self._rate)
        self._then = now
        return self._level

    @property
    def full(self) -> bool:
        """Whether it is as good as a new one."""
        return self.level >= self.capacity

    def wait(self, amount: float) -> float:
        """Return the seconds until `amount`, at most the capacity, is there; 0 if it is."""
        missing = min(amount, self.capacity) - self.level
        # Rounded up, so that who waits as told is not refused again for the last bit of a float.
        return math.ceil(1000 * missing / self._rate) / 1000 if missing > 0 else 0.0

    def charge(self, amount: float) -> None:
        """Take `amount`, whether it is there or not."""
        self._level = self.level - max(0.0, amount)
