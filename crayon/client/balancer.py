"""Which of several servers gets the next request: news in, decision out, on whatever clock it is given.

Requests go round robin over the servers that are well: the one whose last turn is longest ago is next. A server that
could not be reached is *ejected* at once, by one failure, and comes back when its health is good again, which is asked
for with growing pauses. One that says NOT_SERVING (it loads, drains or broke down) gets nothing. Where nobody is well,
those that are only said to be away are tried, for that may be old news.

Failures that one event brings about, such as all calls that a killed server was busy with, count as one.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from crayon.client.breaker import Breaker, BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

# How often the health of servers in use is asked for, and how soon, how late and how randomly after a failure.
CHECK_S = 2.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.25, 10.0
# A server that is full is passed over for as long as it says, but not for longer than this.
LONGEST_FULL_S = 5.0
# After so many checks in a row without any answer, calls that wait for a first token there go elsewhere.
SILENT_CHECKS = 2


class Health(StrEnum):
    """UNKNOWN is not asked yet, and taken for well. AWAY is ejected: nobody answered there."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    AWAY = "away"


class RequestOutcome(StrEnum):
    """How a request ended: with an answer or a refusal, without any, or so that it tells nothing of the server."""

    ANSWERED = "answered"
    FAILED = "failed"
    NEUTRAL = "neutral"


class Pick:
    """A server's turn. Whoever got it reports its end, once; later reports are ignored."""

    __slots__ = ("address", "ended", "event", "old_news", "probe")

    def __init__(self, address: str, *, event: int, probe: bool) -> None:
        self.address = address
        self.event = event
        self.probe = probe
        """Its breaker is half open: this request decides, and is tried there once only."""
        self.old_news = False
        """Its failure belongs to an event that another request has reported."""
        self.ended = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """How one server looks from here: its health, its breaker, and the requests that were sent and still run."""

    address: str
    health: Health
    breaker: BreakerState
    failures: int
    retry_after_s: float
    running: int
    sent: int


@dataclass(slots=True)
class _Endpoint:
    address: str
    breaker: Breaker
    turn: int
    health: Health = Health.UNKNOWN
    event: int = 0  # ejections so far
    faults: int = 0  # ejections since its last answer
    misses: int = 0  # checks in a row that failed
    silent: int = 0  # of them, at the end, those that nobody answered
    full_until: float = 0.0
    next_check: float = 0.0
    checking: bool = False
    running: int = 0
    sent: int = 0
    listed: bool = True


class Balancer:
    """The servers that a client may turn to, and what it knows of them; safe to use from any thread.

    Args:
        addresses: of the servers; each once. Their first turns are shuffled, lest all clients begin with the same one;
            they are listed in the order given.
        breaker: makes the breaker of a server.
        clock: seconds, monotonic.
        shuffled: the source of randomness.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        *,
        breaker: Callable[[], Breaker] = Breaker,
        clock: Callable[[], float] = time.monotonic,
        shuffled: random.Random | None = None,
    ) -> None:
        self._make_breaker = breaker
        self._clock = clock
        self._random = random.Random() if shuffled is None else shuffled  # noqa: S311 - no secret
        self._lock = threading.Lock()
        self._turn = 0
        self._endpoints: dict[str, _Endpoint] = {}
        self.update(addresses)

    def update(self, addresses: Iterable[str]) -> None:
        """Take another list of servers: those that stay are known already, those that go finish what they do."""
        with self._lock:
            wanted = list(dict.fromkeys(addresses))
            for endpoint in self._endpoints.values():
                endpoint.listed = endpoint.address in wanted
            new = [address for address in wanted if address not in self._endpoints]
            turns = list(range(self._turn + 1, self._turn + 1 + len(new)))
            self._random.shuffle(turns)
            self._turn += len(new)
            for address, turn in zip(new, turns, strict=True):
                self._endpoints[address] = _Endpoint(address, self._make_breaker(), turn)
            # In the order of the list; who is listed no more comes last.
            self._endpoints = {name: self._endpoints[name] for name in (*wanted, *self._endpoints)}

    def retired(self) -> tuple[str, ...]:
        """Forget the servers that are listed no more and have nothing to do, and return them."""
        with self._lock:
            gone = [each.address for each in self._endpoints.values() if not each.listed and not each.running]
            for address in gone:
                del self._endpoints[address]
            return tuple(gone)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers that are listed."""
        with self._lock:
            return tuple(each.address for each in self._listed())

    @property
    def breakers(self) -> tuple[Breaker, ...]:
        """The breakers of the servers that are listed."""
        with self._lock:
            return tuple(each.breaker for each in self._listed())

    # -- requests

    def pick(self, tried: Collection[str] = ()) -> Pick | None:
        """Give the next server its turn, rather one that is not among `tried`; None if nobody may be asked."""
        with self._lock:
            now = self._clock()
            ranked = sorted(self._listed(), key=lambda each: (_rank(each, now), each.address in tried, each.turn))
            for endpoint in ranked:
                probe = endpoint.breaker.state is not BreakerState.CLOSED
                if endpoint.health is not Health.NOT_SERVING and endpoint.breaker.allow():
                    self._turn += 1
                    endpoint.turn = self._turn
                    endpoint.running += 1
                    endpoint.sent += 1
                    return Pick(endpoint.address, event=endpoint.event, probe=probe)
            return None

    def spare(self, tried: Collection[str]) -> bool:
        """Whether a server that is well has not been tried yet."""
        with self._lock:
            now = self._clock()
            return any(
                _rank(each, now) == 0
                and each.address not in tried
                and each.health is not Health.NOT_SERVING
                and each.breaker.state is not BreakerState.OPEN
                for each in self._listed()
            )

    def eject(self, pick: Pick) -> bool:
        """Hear that a server could not be reached; return whether that is news, and not of an event known already.

        Where there is only one server everything is news: there is nobody to go to instead.
        """
        with self._lock:
            endpoint = self._endpoints.get(pick.address)
            if endpoint is None:
                return True
            if pick.event != endpoint.event and len(self._endpoints) > 1:
                pick.old_news = True
                return False
            endpoint.event += 1
            endpoint.faults += 1
            # The next failure of this request is another event.
            pick.event = endpoint.event
            if endpoint.health is not Health.NOT_SERVING:
                endpoint.health = Health.AWAY
            endpoint.next_check = self._clock() + self._pause(endpoint)
            return True

    def full(self, pick: Pick, seconds: float) -> None:
        """Hear that a server has no room for so many seconds: others come first until then."""
        with self._lock:
            endpoint = self._endpoints.get(pick.address)
            if endpoint is not None:
                endpoint.full_until = self._clock() + min(max(seconds, 0.0), LONGEST_FULL_S)

    def end(self, pick: Pick, outcome: RequestOutcome) -> None:
        """Hear how a turn ended."""
        with self._lock:
            endpoint = self._endpoints.get(pick.address)
            if endpoint is None or pick.ended:
                return
            pick.ended = True
            endpoint.running -= 1
            if outcome is RequestOutcome.ANSWERED:
                endpoint.breaker.success()
                endpoint.faults = 0
                if pick.event == endpoint.event and endpoint.health is not Health.NOT_SERVING:
                    endpoint.health = Health.SERVING
            elif outcome is RequestOutcome.FAILED and not pick.old_news:
                endpoint.breaker.failure()
            else:
                endpoint.breaker.neutral()

    # -- health

    def due(self) -> tuple[str, ...]:
        """Return the servers whose health is to be asked for now; `checked` must hear what came of it."""
        with self._lock:
            now = self._clock()
            found = [each for each in self._listed() if each.next_check <= now and not each.checking]
            for endpoint in found:
                endpoint.checking = True
            return tuple(each.address for each in found)

    def checked(self, address: str, health: Health, *, silent: bool = False) -> bool:
        """Hear a server's health: `AWAY` if nobody answered, `silent` if nobody even said so.

        Returns whether the server has been silent for so long that what waits there for a first token should go.
        """
        with self._lock:
            endpoint = self._endpoints.get(address)
            if endpoint is None:
                return False
            endpoint.checking, endpoint.health = False, health
            if health is not Health.AWAY:
                endpoint.misses = endpoint.silent = 0
                endpoint.next_check = self._clock() + CHECK_S
                return False
            endpoint.misses += 1
            endpoint.silent = endpoint.silent + 1 if silent else 0
            endpoint.next_check = self._clock() + self._pause(endpoint)
            return endpoint.silent >= SILENT_CHECKS

    def wake(self) -> None:
        """After a time in which nobody asked: what is known of health is old, and checks are due."""
        with self._lock:
            for endpoint in self._endpoints.values():
                endpoint.next_check, endpoint.checking, endpoint.silent = self._clock(), False, 0
                # Whoever was not well is not the first to be tried, but may be.
                well = endpoint.health in (Health.UNKNOWN, Health.SERVING)
                endpoint.health = Health.UNKNOWN if well else Health.AWAY

    def status(self) -> tuple[EndpointStatus, ...]:
        """Return how all servers stand that are listed or still have something to do."""
        with self._lock:
            return tuple(
                EndpointStatus(
                    address=each.address,
                    health=each.health,
                    breaker=each.breaker.state,
                    failures=each.breaker.failures,
                    retry_after_s=each.breaker.retry_after,
                    running=each.running,
                    sent=each.sent,
                )
                for each in self._endpoints.values()
            )

    # -- inside; the lock is held

    def _listed(self) -> list[_Endpoint]:
        return [each for each in self._endpoints.values() if each.listed]

    def _pause(self, endpoint: _Endpoint) -> float:
        doublings = max(0, endpoint.misses + endpoint.faults - 1)
        # Random, so that clients that lost the same server do not all ask at once.
        pause = min(LAST_PAUSE_S, FIRST_PAUSE_S * float(2 ** min(doublings, 16)))
        return pause * self._random.uniform(0.5, 1.0)


def _rank(endpoint: _Endpoint, now: float) -> int:
    """Return 0 for a server that is well, 1 for one that is full, 2 for one that is away."""
    if endpoint.health is Health.AWAY:
        return 2
    return int(endpoint.full_until > now)
