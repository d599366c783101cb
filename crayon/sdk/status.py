"""How a client stands: its server, its budget and what it measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crayon.client.balancer import EndpointStatus
    from crayon.completion import Reason
    from crayon.router.conditions import Measured
    from crayon.sdk.budget_guard import BudgetStatus
    from crayon.sdk.engines import Engines
    from crayon.sdk.usage import UsageTracker


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A circuit breaker: "closed", "open" or "half_open", failures in a row, seconds until a request may try."""

    state: str
    failures: int
    retry_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    """How a client stands now; looking changes nothing and asks nobody.

    Args:
        server: the server's address, if it has one.
        breaker: its circuit breaker; None before the connection was first used. Of several servers, the state that
            lets most through.
        endpoints: how each server stands: health, breaker, requests; empty before the first use.
        budget: what may still go to the server; None where there is no budget.
        measured: speed of both sides, network and battery, as far as known.
        weighed: what the conditions said at the last query, if anything.
    """

    server: str | None
    breaker: BreakerStatus | None
    budget: BudgetStatus | None
    measured: Measured
    weighed: Reason | None
    endpoints: tuple[EndpointStatus, ...] = ()


def client_status(engines: Engines, tracker: UsageTracker) -> ClientStatus:
    """Return how a client stands.

    Raises:
        EngineClosedError: it was closed.
    """
    engines.check_open()
    return ClientStatus(
        server=engines.server_address,
        breaker=_breaker(engines.breaker),
        budget=tracker.budget_guard.status(),
        measured=tracker.meters.read(),
        weighed=tracker.weighed,
        endpoints=engines.endpoints,
    )


def _breaker(breaker: object) -> BreakerStatus | None:
    state = getattr(breaker, "state", None)
    if state is None:
        return None
    return BreakerStatus(
        str(getattr(state, "value", state)).lower(),
        int(getattr(breaker, "failures", 0)),
        float(getattr(breaker, "retry_after", 0.0)),
    )
