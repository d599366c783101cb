"""A second port for probes that know neither TLS nor tokens, such as Kubernetes': health, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from crayon.errors import ConfigError
from crayon.wire.address import join

if TYPE_CHECKING:
    from grpc_health.v1 import health

    from crayon.server.config import ServeConfig

# A request for health is a name; whoever sends more is up to something.
_MAX_BYTES = 1024
_MAX_CALLS = 32


class HealthPort:
    """The server of that port, if the configuration has one; `start` and `stop` it in the loop of the other server.

    Args:
        config: where it listens; no `health_port`, no server.
        servicer: what answers, the same as on the other port.
    """

    def __init__(self, config: ServeConfig, servicer: health.aio.HealthServicer) -> None:
        self._config = config
        self._servicer = servicer
        self._server: grpc.aio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address is taken or not ours.
        """
        port = self._config.health_port
        if port is None:
            return
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MAX_BYTES)]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CALLS)
        health_pb2_grpc.add_HealthServicer_to_server(_CheckOnly(self._servicer), self._server)
        host = self._config.health_host
        try:
            bound = self._server.add_insecure_port(join(host, port))
        except RuntimeError:
            problem = f"cannot listen on {join(host, port)}: it is taken or not ours; choose another --health-port"
            raise ConfigError("health_port", problem) from None
        self.address = join(host, bound)
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening; watches end."""
        if self._server is not None:
            await self._server.stop(0)


class _CheckOnly:
    """Health without `Watch`: its calls never end, and a few of them would keep the probes out."""

    def __init__(self, servicer: health.aio.HealthServicer) -> None:
        self._servicer = servicer

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Answer as the other port does."""
        return await self._servicer.Check(request, context)

    async def List(self, _: Any, context: Any) -> None:  # noqa: N802 - the protocol's name
        """Refuse."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this port answers Check only")

    async def Watch(self, _: Any, context: Any) -> None:  # noqa: N802 - the protocol's name
        """Refuse."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this port answers Check only")
