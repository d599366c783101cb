"""Stands around all other interceptors, so that it sees every call and the status that it really ended with."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import Message

from crayon.server.observability.observation import CURRENT, Observation
from crayon.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from crayon.server.observability.observation import TokenPace, Watcher

    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
PREFIX = f"/{_SERVICE.full_name}/"
METHODS = tuple(method.name for method in _SERVICE.methods)
# A method that does not exist is one label, whatever its caller names it.
OTHER = "other"
TRACEPARENT = "traceparent"
_MAX_TRACEPARENT = 128
_MAKERS: dict[tuple[bool, bool], Any] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class ObservingInterceptor(grpc.aio.ServerInterceptor):
    """Tells watchers of each call of Crayon's own methods: first when it comes, then when it has ended.

    Args:
        watchers: who is told, in this order.
        pace: where tokens are counted.
    """

    def __init__(self, watchers: Sequence[Watcher], pace: TokenPace) -> None:
        self._watchers = tuple(watchers)
        self._pace = pace

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler, watched."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(PREFIX):
            return handler
        name = handler_call_details.method.removeprefix(PREFIX)
        return self._watched(
            handler, name if name in METHODS else OTHER, _traceparent(handler_call_details.invocation_metadata)
        )

    def _watched(self, handler: Handler, method: str, traceparent: str | None) -> Handler:
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def run(request: Any, context: Context) -> Any:
            seen = Observation(method, _host(context.peer()), self._pace, traceparent)
            seen.request_bytes = _size(request)
            for watcher in self._watchers:
                watcher.began(seen)
            token = CURRENT.set(seen)
            error: BaseException | None = None
            try:
                return await behaviour(request, context)
            except BaseException as raised:
                error = raised
                raise
            finally:
                CURRENT.reset(token)
                seen.ended, seen.code = time.monotonic(), _code(error, context)
                for watcher in self._watchers:
                    watcher.ended(seen)

        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        return cast("Handler", make(run, handler.request_deserializer, handler.response_serializer))


def _size(request: Any) -> int:
    """Return how many bytes a request has, which may not be parsed yet; 0 of a stream of requests."""
    if isinstance(request, bytes):
        return len(request)
    return request.ByteSize() if isinstance(request, Message) else 0


def _code(error: BaseException | None, context: Context) -> str:
    """Return the name of the status that a call ended with."""
    if error is None or isinstance(error, grpc.aio.AbortError):
        told: Any = context.code()  # a number where it was set, whatever the stubs say
        number = told.value[0] if isinstance(told, grpc.StatusCode) else told or 0
        return _NAMES.get(number, grpc.StatusCode.UNKNOWN.name)
    if isinstance(error, asyncio.CancelledError | grpc.aio.BaseError):
        # To the server a deadline that passed at the client looks like any client that went away.
        left = context.time_remaining()
        expired = left is not None and left <= 0
        return (grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED).name
    return grpc.StatusCode.UNKNOWN.name


_NAMES: dict[Any, str] = {code.value[0]: code.name for code in grpc.StatusCode}


def _traceparent(metadata: Any) -> str | None:
    for key, value in metadata or ():
        if key == TRACEPARENT and isinstance(value, str) and len(value) <= _MAX_TRACEPARENT:
            return value
    return None


def _host(peer: str) -> str:
    # ipv4:1.2.3.4:567 or ipv6:...:567: a client's next connection has another port.
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
