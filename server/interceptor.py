"""The one place where what escapes a handler becomes a status."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import DecodeError

from crayon.errors import CrayonError, InvalidRequestError, fault_report
from crayon.wire.status import error_to_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]

log = logging.getLogger(__name__)

_NO_MESSAGE = object()


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns every exception of Crayon's own methods into the status of the table in crayon/wire/status.py."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler, guarded."""
        handler = await continuation(handler_call_details)
        # Health and reflection answer with statuses of their own; an unknown method has no handler.
        if handler is None or not handler_call_details.method.startswith("/crayon."):
            return handler
        if handler.response_streaming:
            make: Any = grpc.unary_stream_rpc_method_handler
            behaviour: Any = handler.unary_stream
        else:
            make, behaviour = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        guarded = _guarded(behaviour, handler_call_details.method)
        return cast(
            "grpc.RpcMethodHandler[Any, Any]",
            make(guarded, _tolerant(cast("Any", handler.request_deserializer)), handler.response_serializer),
        )


def _tolerant(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Let what is no message through as such: what a deserializer raises is logged with a trace, as a fault of ours."""

    def read(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            return _NO_MESSAGE

    return read


def _guarded(behaviour: Behaviour, method: str) -> Behaviour:
    async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if request is _NO_MESSAGE:
                problem = "is no message of this method; do client and server have one version?"
                raise InvalidRequestError("request", problem)
            return await behaviour(request, context)
        except grpc.aio.BaseError:
            # An abort that is already under way, or a write to a client that has left.
            raise
        except Exception as error:  # noqa: BLE001 - the last guard: whatever it is, the client gets a status
            status = error_to_status(error, incident := uuid.uuid4().hex[:12])
            if status.code is grpc.StatusCode.INTERNAL:
                _report(method, incident, error)
            await context.abort(status.code, status.message, status.trailers)

    return run


def _report(method: str, incident: str, error: Exception) -> None:
    """Log what happened without any text of the request: foreign messages may quote it, our own do not."""
    said = f"{error} " if isinstance(error, CrayonError) else ""
    log.error("incident %s in %s: %s%s", incident, method, said, fault_report(error))
