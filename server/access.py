"""Who may call: one guard in front of every method, before anything of the request is read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import DecodeError

from crayon.errors import InvalidRequestError, OverloadedError, UnauthenticatedError
from crayon.server.caller import Caller, calling, identity
from crayon.wire.status import error_to_status
from crayon.wire.tokens import AUTHORIZATION, SCHEME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crayon.errors import CrayonError
    from crayon.server.doors import Doors
    from crayon.server.limits import ClientLimits
    from crayon.server.tokens import TokenStore

    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

log = logging.getLogger(__name__)

# What watches over a server holds no token, and learns no more than whether it serves.
OPEN = ("/grpc.health.v1.Health/",)
_WANTED = "set server.token_file (--token-file) or CRAYON_SERVER__TOKEN"
_MAKERS: dict[tuple[bool, bool], Any] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets in a caller that shows a token (where there are some) and is within its limits; health is open to all.

    It stands before all other interceptors, in front of methods that do not exist, too.

    Args:
        tokens: the tokens that are taken; None: nobody needs one.
        limits: what each client may ask for.
        doors: told of every call that is let in, refused, or left by who called.
    """

    def __init__(self, tokens: TokenStore | None, limits: ClientLimits, doors: Doors) -> None:
        self._tokens = tokens
        self._limits = limits
        self._doors = doors

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler behind the guard, or one that refuses."""
        method = handler_call_details.method
        if method.startswith(OPEN):
            return await continuation(handler_call_details)
        try:
            name = self._token_name(handler_call_details.invocation_metadata)
        except UnauthenticatedError as error:
            return _refusal(method, error, self._doors)
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler, name)

    def _token_name(self, metadata: Any) -> str | None:
        if self._tokens is None:
            return None
        shown = [value for key, value in metadata or () if key == AUTHORIZATION]
        if not shown:
            raise UnauthenticatedError(f"this server wants a token: {_WANTED}")
        scheme, _, token = shown[0].partition(" ")
        name = self._tokens.current.find(token.strip()) if scheme.lower() == SCHEME and len(shown) == 1 else None
        if name is None:
            raise UnauthenticatedError(f"the token is none that this server takes (any more): {_WANTED}")
        return name

    def _guarded(self, handler: Handler, token_name: str | None) -> Handler:
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        # The bytes of a request are read after the client was let in; in a stream of them, one by one as they come.
        parse = None if handler.request_streaming else handler.request_deserializer

        async def run(request: Any, context: Context) -> Any:
            client = identity(token_name, context)
            with contextlib.ExitStack() as stay:
                try:
                    stay.enter_context(self._limits.admit(client))
                    self._doors.admitted(context.peer())
                except OverloadedError as error:
                    await _end(context, error)
                stay.enter_context(calling(Caller(client, lambda tokens: self._limits.charge(client, tokens))))
                if parse is not None:
                    request = await _parsed(parse, request, context)
                try:
                    return await _answer(behaviour(request, context), context)
                except asyncio.CancelledError:
                    self._doors.refused(context.peer())
                    raise

        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        return cast(
            "Handler", make(run, handler.request_deserializer if parse is None else None, handler.response_serializer)
        )


def _refusal(method: str, error: UnauthenticatedError, doors: Doors) -> Handler:
    async def refuse(_requests: Any, context: Context) -> None:
        doors.refused(context.peer())
        log.info("refused %r to %s", method[:100], context.peer())
        await _end(context, error)

    # A stream, whatever the method is: then nothing of the request is waited for. On the wire all kinds are the same.
    return grpc.stream_stream_rpc_method_handler(cast("Any", refuse))


async def _answer(answer: Any, context: Context) -> Any:
    """Wait for a coroutine's answer, or write those of a generator."""
    if not hasattr(answer, "__aiter__"):
        return await answer
    async for message in answer:
        await context.write(message)
    return None


async def _parsed(parse: Callable[[bytes], Any], request: bytes, context: Context) -> Any:
    try:
        return parse(request)
    except DecodeError:
        await _end(context, InvalidRequestError("request", "is no message of this method; have both ends one version?"))


async def _end(context: Context, error: CrayonError) -> None:
    status = error_to_status(error, incident="")
    await context.abort(status.code, status.message, status.trailers)
