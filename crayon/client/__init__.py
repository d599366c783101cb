"""The remote engine: a Crayon server, spoken to over gRPC."""

from __future__ import annotations

from crayon.client.breaker import Breaker, BreakerState
from crayon.client.check import ServerStatus
from crayon.client.remote import RemoteEngine

__all__ = ["Breaker", "BreakerState", "RemoteEngine", "ServerStatus"]
