"""How many compute threads are worth starting now, beside what other processes compute.

llama.cpp's threads meet at a barrier some hundred times a token. Where one of them has to wait for a core that a
neighbour holds, all of them wait: with two neighbours on two cores, two threads write 65 tokens/s, one thread 82
(SmolLM2; docs/how-to/models.md#threads). So a step takes as many threads as there are cores left free.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import psutil

from crayon.machine import allowed_cores, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds between two looks: the kernel counts in hundredths, so a shorter look sees little else than rounding.
LOOK_S = 0.1
# What was before a pause as long as this says nothing of now.
STALE_S = 2.0
LATELY_S = 60.0  # of what is asked for between questions, a longer while says enough
# Of a core: so much may be missing before a thread is given up, and has to be free on top before one is taken back.
SLACK = 0.5
SPARE = 0.7
# Cores that a measurement lacks while it runs, from which on it is not believed at once.
BUSY = 0.3
# Of a core's times; guest time is counted in user, too.
_KINDS = ("user", "system", "irq", "softirq")


@dataclass(frozen=True, slots=True)
class Look:
    """Seconds computed so far, `when` by the clock: `busy` by all on our cores who do not give way, `own` by us."""

    when: float
    busy: float
    own: float


def look() -> Look:
    """Return the figures of now. Time that a hypervisor kept from us is nobody's.

    What runs at a lower priority than we do gives way, so it is no neighbour, unless we run at a lower one ourselves.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    busy = 0.0
    kinds = _KINDS if _own_nice() <= 0 else (*_KINDS, "nice")
    for number, core in enumerate(psutil.cpu_times(percpu=True)):
        if cores is None or number in cores:
            busy += sum(getattr(core, kind, 0.0) for kind in kinds)
    return Look(time.monotonic(), busy, time.process_time())


def _own_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0


def others(before: Look, now: Look) -> float:
    """Return how many cores other processes kept busy between two looks, on average: 0 and more."""
    return max(0.0, (now.busy - before.busy) - (now.own - before.own)) / max(now.when - before.when, 1e-9)


def lacking(before: Look, now: Look, threads: int | None) -> float:
    """Return how many of the cores of `threads` (None: all of ours) others took between two looks, on average."""
    spare = allowed_cores() - (usable_cores() if threads is None else threads)
    return max(0.0, others(before, now) - max(0, spare))


def threads_beside(others: float, cores: int, now: int) -> int:
    """Return how many threads to use, 1 to `cores`.

    Args:
        others: cores that other processes keep busy.
        cores: how many there are for us.
        now: threads in use; a small change of `others` does not change them.
    """
    free = cores - others
    if free < now - SLACK:
        return max(1, int(free + SLACK))
    if free > now + SPARE:
        return min(cores, int(free + 1.0 - SPARE))
    return min(now, cores)


def slowdown(others: float, cores: int) -> float:
    """Return how many times as long a step takes beside `others` busy cores, by a fair share: 1 and more."""
    return cores / min(cores, max(cores - others, cores / (1.0 + others)))


class Contention:
    """Watches what other processes compute. One for a process, whose threads may all ask it.

    Args:
        cores: how many this process may run on; a quota of processor time is not its business.
        looks: returns the figures of now.
        clock: seconds, as `looks` has them.
    """

    __slots__ = ("_clock", "_last", "_looks", "_threads", "cores", "others")

    def __init__(
        self, cores: int, looks: Callable[[], Look] = look, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.cores = cores
        self.others = 0.0
        self._threads = cores
        self._looks, self._clock = looks, clock
        self._last = looks()

    def threads(self, most: int) -> int:
        """Return how many of at most `most` threads the next step is to take; looks around now and then."""
        if self._clock() - self._last.when >= LOOK_S:
            before, self._last = self._last, self._looks()
            if self._last.when - before.when < STALE_S:
                self.others = others(before, self._last)
                self._threads = threads_beside(self.others, self.cores, self._threads)
        return min(most, self._threads)

    def slowdown(self) -> float:
        """Return how many times as long steps take now as they would without neighbours."""
        known = LOOK_S <= self._clock() - self._last.when <= LATELY_S  # a step looked a moment ago otherwise
        return slowdown(others(self._last, self._looks()) if known else self.others, self.cores)


@cache
def here() -> Contention:
    """Return what watches for this process."""
    return Contention(allowed_cores())
