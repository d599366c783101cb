"""A look at a server: whether it is there and serves, and what."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crayon.errors import DeadlineExceededError, ServerError, ServerUnavailableError, UnauthenticatedError
from crayon.v1 import inference_pb2, inference_pb2_grpc
from crayon.wire.responses import models_from_proto
from crayon.wire.status import error_from_rpc

if TYPE_CHECKING:
    from crayon.client.access import ServerAccess
    from crayon.engine import ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """What a look at a server found. `problem` says what is wrong, and is empty if it serves.

    `each` has the servers where there are several: then the rest is of the nearest that serves, if one does.
    """

    address: str
    reachable: bool = False
    serving: bool = False
    models: tuple[ModelInfo, ...] = ()
    round_trip_ms: float = 0.0
    problem: str = ""
    unauthenticated: bool = False
    each: tuple[ServerStatus, ...] = ()


def said_of_each(status: ServerStatus) -> str:
    """Return how many of several servers serve, and what is wrong with the others; nothing of a single one."""
    if not status.each:
        return ""
    away = [f"{each.address}: {each.problem}" for each in status.each if not each.serving]
    return "; ".join([f"{len(status.each) - len(away)} of {len(status.each)} servers serve", *away])


def together(each: tuple[ServerStatus, ...]) -> ServerStatus:
    """Return the status of several servers as one; there is one at least."""
    best = min(each, key=lambda status: (not status.serving, not status.reachable, status.round_trip_ms))
    return replace(best, each=each)


def look(access: ServerAccess, channel: grpc.Channel, timeout: float, address: str | None = None) -> ServerStatus:
    """Ask for health and models within `timeout` seconds; whatever goes wrong is in the status."""
    address = access.address if address is None else address
    begin = time.monotonic()
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=timeout, metadata=(metadata := access.metadata())
        )
        round_trip_ms = 1000 * (time.monotonic() - begin)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            problem = "the server is loading its model, or shutting down"
            return ServerStatus(address=address, reachable=True, round_trip_ms=round_trip_ms, problem=problem)
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        left = max(0.001, timeout - (time.monotonic() - begin))
        answer = stub.ListModels(inference_pb2.ListModelsRequest(), timeout=left, metadata=metadata)
        models = models_from_proto(answer)
    except grpc.RpcError as failure:
        error = error_from_rpc(failure)
        away = isinstance(error, ServerUnavailableError | DeadlineExceededError)
        return ServerStatus(
            address=address,
            reachable=not away,
            problem=str(error),
            unauthenticated=isinstance(error, UnauthenticatedError),
        )
    except ServerError as error:
        return ServerStatus(address=address, reachable=True, problem=str(error))
    return ServerStatus(address=address, reachable=True, serving=True, models=models, round_trip_ms=round_trip_ms)
