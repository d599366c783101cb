"""The standard question of every prober, whether a service serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crayon.client.channel import channel_options
from crayon.errors import ServerRejectedError
from crayon.local_only import check_local_only
from crayon.wire.status import error_from_rpc

if TYPE_CHECKING:
    from crayon.client.access import ServerAccess


def ask_health(access: ServerAccess, service: str, timeout: float) -> str:
    """Return what grpc.health.v1 says of `service` (empty: the whole server): SERVING, NOT_SERVING, ...

    Args:
        access: the server, and TLS where it speaks that; health wants no token.
        service: the full name of a gRPC service.
        timeout: seconds for everything.

    Raises:
        PrivacyError: CRAYON_LOCAL_ONLY is on; nothing was sent.
        CrayonError: nobody answers in time, or knows the service.
    """
    check_local_only()
    request = health_pb2.HealthCheckRequest(service=service)
    options = channel_options(timeout, local=access.local)
    credentials = access.credentials()
    with (
        grpc.insecure_channel(access.address, options=options)
        if credentials is None
        else grpc.secure_channel(access.address, credentials, options=options)
    ) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.NOT_FOUND:
                raise ServerRejectedError(f"it has no service {service!r}") from None
            raise error_from_rpc(failure) from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
