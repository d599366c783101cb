"""The remote engine: a Crayon server, or several that take turns, spoken to over gRPC."""

from __future__ import annotations

from crayon.client.balancer import EndpointStatus, Health
from crayon.client.breaker import Breaker, BreakerState
from crayon.client.check import ServerStatus
from crayon.client.remote import RemoteEngine

__all__ = ["Breaker", "BreakerState", "EndpointStatus", "Health", "RemoteEngine", "ServerStatus"]
