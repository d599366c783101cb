"""A token bucket: an allowance that refills evenly with time. Pure: its clock is given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
