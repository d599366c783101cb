"""How fast each side answered lately: moving averages that are forgotten after a while, for any thread."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.machine import battery
from crayon.router.conditions import RecentSpeed

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.engine import Finished
    from crayon.machine import Battery

# The weight of the newest measurement.
NEWEST = 0.3
# A side that is avoided is not measured; after this its numbers are forgotten, so that it gets another try.
FORGET_SECONDS = 300.0
BATTERY_SECONDS = 30.0
# Of fewer tokens a rate says little.
LEAST_TOKENS = 4


@dataclass(slots=True)
class _Average:
    """One moving average: its value, and when it was last fed."""

    value: float | None = None
    at: float = 0.0

    def add(self, value: float, now: float) -> None:
        before = self.read(now)
        self.value, self.at = value if before is None else before + NEWEST * (value - before), now

    def read(self, now: float) -> float | None:
        return None if self.value is None or now - self.at > FORGET_SECONDS else self.value


class Meters:
    """What the answers of one client showed.

    Args:
        clock: seconds, monotonic.
        power: reads the battery; asked twice a minute at most.
        slowdown: tells how many times as long the device takes now for what other processes compute.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        power: Callable[[], Battery | None] = battery,
        slowdown: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._clock = clock
        self._power = power
        self._slowdown = slowdown
        self._lock = threading.Lock()
        self._averages: dict[str, _Average] = {}
        self._running = 0
        self._connected = False
        self._battery: Battery | None = None
        self._looked_at: float | None = None

    def device_begins(self) -> int:
        """Take in that the device starts an answer; return how many run with it."""
        with self._lock:
            self._running += 1
            return self._running

    def device_ends(self, finished: Finished | None, beside: int) -> None:
        """Take in that an answer of the device ended (None: unfinished), with how many ran at most meanwhile."""
        slowdown = 1.0 if finished is None else self._slowdown()
        with self._lock:
            beside = max(beside, self._running)
            self._running -= 1
            if finished is None:
                return
            usage, timings, factor = finished.usage, finished.timings, beside * slowdown
            self._rate("device_prompt_rate", usage.prompt_tokens - usage.cached_tokens, timings.prompt_ms, factor)
            self._rate("device_decode_rate", usage.completion_tokens - 1, timings.decode_ms, factor)
            self._add("device_wait_s", timings.queue_ms / 1000)
            self._add("answer_tokens", usage.completion_tokens)

    def server_answered(
        self, finished: Finished, *, started_s: float | None, first_token_s: float | None, total_s: float
    ) -> None:
        """Take in a whole answer of the server; the seconds since its request was sent, as seen from here."""
        with self._lock:
            self._add("server_loss", 0.0)
            self._add("answer_tokens", finished.usage.completion_tokens)
            if first_token_s is not None:
                self._add("server_first_token_s", first_token_s)
                steps = finished.usage.completion_tokens - 1
                self._rate("server_decode_rate", steps, 1000 * (total_s - first_token_s), 1)
            # The first answer's round trip has the connection's set-up in it.
            if started_s is not None and self._connected:
                self._add("round_trip_s", max(0.0, started_s - finished.timings.queue_ms / 1000))
            self._connected = True

    def server_lost(self) -> None:
        """Take in that a request to the server was lost on the way, or timed out."""
        with self._lock:
            self._add("server_loss", 1.0)

    def read(self) -> RecentSpeed:
        """Return everything that is known now."""
        power, slowdown = self._read_power(), self._slowdown()
        with self._lock:
            now = self._clock()
            known = {name: average.read(now) for name, average in self._averages.items()}
            return RecentSpeed(
                **known,
                device_running=self._running,
                device_slowdown=slowdown,
                battery_percent=None if power is None else power.percent,
                plugged=None if power is None else power.plugged,
            )

    def _read_power(self) -> Battery | None:
        with self._lock:
            now = self._clock()
            if self._looked_at is None or now - self._looked_at >= BATTERY_SECONDS:
                self._looked_at, self._battery = now, self._power()
            return self._battery

    def _rate(self, name: str, tokens: int, milliseconds: float, factor: float) -> None:
        if tokens >= LEAST_TOKENS and milliseconds > 0:
            # Answers that run at once, and other processes, share the device: alone it would have been so much faster.
            self._add(name, factor * 1000 * tokens / milliseconds)

    def _add(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            return  # a server may say anything of itself
        self._averages.setdefault(name, _Average()).add(value, self._clock())
