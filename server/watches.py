"""Health, with its watches counted: they never end by themselves, and need no token."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health

from crayon.server.caller import host_of

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_WATCHES = 128
MOST_OF_ONE = 16
"""Of one address, whatever its ports."""


class BoundedHealth(health.aio.HealthServicer):  # type: ignore[misc]  # the library tells no types
    """The standard servicer, which refuses watches that are too many.

    Args:
        refused: told the peer of each watch that is refused.
    """

    def __init__(self, refused: Callable[[str], None]) -> None:
        super().__init__()
        self._refused = refused
        self._watches: Counter[str] = Counter()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - the protocol's name
        """Tell how a service is, and each change."""
        peer = context.peer()
        host = host_of(peer)
        if self._watches[host] >= MOST_OF_ONE or self._watches.total() >= MOST_WATCHES:
            self._refused(peer)
            said = f"{self._watches[host]} watches of this address are open already; ask Check from time to time"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, said)
        self._watches[host] += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watches[host] -= 1
            if not self._watches[host]:
                del self._watches[host]
