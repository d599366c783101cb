"""The breakers of several servers, looked at as one: as long as one server may be asked, it is not open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.client.breaker import BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.client.breaker import Breaker

# From the state that lets most through to the one that lets nothing.
_ORDER = (BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN)


class Breakers:
    """What a request would meet at the best of several servers. Only looks: each breaker is told of its own server.

    Args:
        all_of: returns the breakers; one at least.
    """

    def __init__(self, all_of: Callable[[], Sequence[Breaker]]) -> None:
        self._all = all_of

    @property
    def state(self) -> BreakerState:
        """CLOSED if one of them is, OPEN if all are."""
        return min((breaker.state for breaker in self._all()), key=_ORDER.index)

    @property
    def failures(self) -> int:
        """Failures in a row at the server that has the fewest."""
        return min(breaker.failures for breaker in self._all())

    @property
    def retry_after(self) -> float:
        """Seconds until one of the servers may be tried; 0 if one may now."""
        return min(breaker.retry_after for breaker in self._all())
