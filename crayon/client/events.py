"""Answers of a server in asyncio, without a thread for each: for programs that wait for many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, Unpack

import grpc

from crayon.client.access import AccessOptions, ServerAccess
from crayon.client.channel import channel_options
from crayon.local_only import check_local_only
from crayon.v1 import inference_pb2_grpc
from crayon.wire.requests import generate_request_to_proto
from crayon.wire.responses import event_from_proto
from crayon.wire.status import error_from_rpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from crayon.engine import Event, GenerateRequest

Call = Any  # the stub's type of a stream that is being read is a class that nothing can be


class EventClient:
    """Reads the events of a server's answers. One event loop; `async with` it.

    Nothing is tried again and there is no breaker: that is what `RemoteEngine` is for.

    Args:
        address: `host:port` or `unix:/path`; on this machine, unless TLS is spoken.
        timeout: seconds for one answer.
        connect_timeout: seconds for one attempt to connect.
        access: TLS and token, see `ServerAccess`.

    Raises:
        ConfigError: the address is malformed, or is on another machine and there is no TLS; or `access` is wrong.
    """

    def __init__(
        self, address: str, *, timeout: float = 60.0, connect_timeout: float = 2.0, **access: Unpack[AccessOptions]
    ) -> None:
        self._access = ServerAccess(address, **access)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        options = channel_options(self._connect_timeout, local=self._access.local)
        credentials, address = self._access.credentials(), self._access.address
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of an answer; closing the iterator early cancels it on the server.

        Raises:
            PrivacyError: CRAYON_LOCAL_ONLY is on; nothing was sent.
            CrayonError: whatever the server says, or that it cannot be reached.
            RuntimeError: used outside its `async with` block.
        """
        check_local_only()
        if self._channel is None:
            raise RuntimeError("use EventClient in its `async with` block")
        stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        message, metadata = generate_request_to_proto(request), self._access.metadata()
        call: Call = stub.Generate(message, timeout=self._timeout, metadata=metadata)
        try:
            async for message in call:
                event = event_from_proto(message)
                if event is not None:
                    yield event
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None
        finally:
            call.cancel()
