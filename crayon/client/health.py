"""The standard question of every prober, whether a service serves."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crayon.client.channel import channel_options
from crayon.errors import ServerRejectedError
from crayon.wire.address import check_local
from crayon.wire.status import error_from_rpc


def ask_health(address: str, service: str, timeout: float) -> str:
    """Return what grpc.health.v1 says of `service` (empty: the whole server): SERVING, NOT_SERVING, ...

    Args:
        address: `host:port` or `unix:/path`, on this machine.
        service: the full name of a gRPC service.
        timeout: seconds for everything.

    Raises:
        ConfigError: the address is malformed or another machine's.
        CrayonError: nobody answers in time, or knows the service.
    """
    request = health_pb2.HealthCheckRequest(service=service)
    with grpc.insecure_channel(check_local(address, "address"), options=channel_options(timeout)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.NOT_FOUND:
                raise ServerRejectedError(f"it has no service {service!r}") from None
            raise error_from_rpc(failure) from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
