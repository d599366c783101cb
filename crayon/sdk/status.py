"""How a client stands: its server, its budget and what it measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.completion import Source
from crayon.errors import CrayonError, InvalidRequestError
from crayon.local_only import local_only
from crayon.messages import normalise_messages

if TYPE_CHECKING:
    from crayon.client.balancer import EndpointStatus
    from crayon.completion import Reason
    from crayon.engine import ModelInfo
    from crayon.messages import MessagesLike
    from crayon.router.conditions import RecentSpeed
    from crayon.sdk.budget.guard import BudgetStatus
    from crayon.sdk.budget.usage import UsageTracker
    from crayon.sdk.call.engines import Engines


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
    measured: RecentSpeed
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


def client_models(engines: Engines) -> dict[Source, tuple[ModelInfo, ...]]:
    """Return what each side serves that the client has; () where it cannot be told now. Opens them, so may block.

    Raises:
        EngineClosedError: the client was closed.
    """
    engines.check_open()
    found: dict[Source, tuple[ModelInfo, ...]] = {}
    for source in Source:
        if engines.configured(source):
            try:
                found[source] = () if source is Source.SERVER and local_only() else engines.open(source).models()
            except CrayonError:
                engines.check_open()
                found[source] = ()
    return found


def device_tokens(engines: Engines, messages: MessagesLike) -> int:
    """Return how many tokens the device's model reads for messages, without the samples of a customisation.

    Raises:
        InvalidRequestError: a message is wrong, or there is no device that could count.
        ModelError: the device's model cannot be opened.
    """
    count = getattr(engines.open(Source.DEVICE), "count_tokens", None) if engines.configured(Source.DEVICE) else None
    if not callable(count):
        raise InvalidRequestError("device", "only a device's model counts tokens, and there is none that does")
    return int(count(normalise_messages(messages)))
