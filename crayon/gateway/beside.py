"""HTTP beside a gRPC server: the same process, loop and engine, for the server's own model; no router."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from crayon.completion import Source
from crayon.gateway.own_engine import OwnEngine
from crayon.gateway.serving import GatewayServer, check_listening
from crayon.gateway.shared.gateway import Gateway
from crayon.sdk import AsyncCrayon, Privacy

if TYPE_CHECKING:
    from crayon.config import GatewaySettings
    from crayon.engine import Engine
    from crayon.server.limits import ClientLimits


class HttpBeside:
    """What `crayon.server.serve.serve` takes as `beside`.

    Args:
        settings: where to listen, and who may ask.
        default_deadline: seconds for a request that sets no deadline.
        max_deadline: most seconds that one may take.

    Raises:
        ConfigError: the address cannot be listened on, or who may ask there is not said.
    """

    def __init__(self, settings: GatewaySettings, *, default_deadline: float, max_deadline: float) -> None:
        check_listening(settings)
        self._default_deadline = default_deadline
        self._max_deadline = max_deadline
        self._gateway = Gateway(
            None,
            fixed=Source.SERVER,
            max_requests=settings.max_requests,
            max_tokens=settings.max_tokens,
            keep_alive=settings.keep_alive_seconds,
            stored_responses=settings.stored_responses,
        )
        self._server = GatewayServer(self._gateway, settings)
        self.address = self._server.address

    async def start(self) -> None:
        """Listen, and say that the model is being loaded."""
        await self._server.start()

    async def opened(self, engine: Engine, limits: ClientLimits) -> None:
        """Answer with this engine, within these limits of each caller."""
        own = OwnEngine(engine, asyncio.get_running_loop(), self._max_deadline)
        client = AsyncCrayon(
            own,
            hardness=False,
            calibration=False,
            timeout=self._default_deadline,
            # What is here has been sent already; its own side looked at it.
            privacy=Privacy(action="off", ledger=False),
        )
        await self._gateway.take(client, limits)

    def reload(self) -> None:
        """Read tokens and certificates again."""
        self._server.reload()

    async def stop(self) -> None:
        """Take no more requests, and let the running ones end."""
        await self._server.stop()
        await self._gateway.close()
