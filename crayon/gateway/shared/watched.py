"""Responses that end as soon as the client hangs up: what was computed for it is cancelled within one step."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import Response

from crayon.gateway.shared.problems import Dialect, Problem, problem_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from crayon.completion import Completion, Route
    from crayon.gateway.shared.gateway import Gateway
    from crayon.sdk import AsyncAnswerStream, Piece

_JSON = "application/json"
# As the server does over gRPC: 20 messages a second read as well as more, and leave the cores to the model.
JOIN_S = 0.05


class Writer(Protocol):
    """How one route writes an answer, piece by piece or whole."""

    dialect: Dialect
    media: str
    """The content type of a stream."""
    beat: bytes
    """What keeps a silent connection open; b"" for nothing."""
    names: Mapping[str, str]
    """What the route calls the fields that the SDK has other names for."""

    def begin(self) -> bytes:
        """Return what stands before the first piece."""
        ...

    def piece(self, piece: Piece) -> bytes:
        """Return a piece of the answer: text, thoughts, or calls of tools."""
        ...

    def end(self, completion: Completion, report: Mapping[str, Any]) -> bytes:
        """Return what stands after the last one."""
        ...

    def failed(self, problem: Problem) -> bytes:
        """Return what stands where the answer breaks off."""
        ...

    def whole(self, completion: Completion, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        ...


def compact(value: Any) -> bytes:
    """Return JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response of JSON."""
    return Response(compact(value), status, dict(headers or {}), _JSON)


def problem_response(problem: Problem, dialect: Dialect) -> Response:
    """Return a response that says what is wrong, as a dialect does."""
    return json_response(problem.body(dialect), problem.status, problem.headers)


class Watched(Response):
    """A response that is made while its client is watched.

    Args:
        gateway: counts the request while it runs.
        dialect: how problems are written.
        make: makes the response; cancelled where the client hangs up.
        names: as `problem_of`.
    """

    def __init__(
        self,
        gateway: Gateway,
        dialect: Dialect,
        make: Callable[[], Awaitable[Response]],
        names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._gateway = gateway
        self._dialect = dialect
        self._make = make
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or stop computing where nobody is there any more."""
        work = asyncio.ensure_future(self._run(scope, receive, send))
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            work.cancel()
            # Not left before the engine was told: its row is free then.
            await asyncio.gather(work, gone, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._gateway.admitted(caller_of(scope)):
                await self._answer(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the last line of defence: clients get an answer in any case
            problem = problem_of(error, self._names)
            await problem_response(problem, self._dialect)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._make()
        await response(scope, receive, send)


class GatewayAnswer(Watched):
    """An answer of the client, whole or as a stream of server-sent events or lines.

    Args:
        gateway: whose client answers.
        answer: the answer, not begun.
        writer: how it is written.
        stream: whether its pieces are sent as they come.
        kept: told of the whole answer before its end is written.
    """

    def __init__(
        self,
        gateway: Gateway,
        answer: AsyncAnswerStream,
        writer: Writer,
        *,
        stream: bool,
        kept: Callable[[Completion], None] | None = None,
    ) -> None:
        super().__init__(gateway, writer.dialect, self._whole, writer.names)
        self._stream = answer
        self._writer = writer
        self._streamed = stream
        self._kept = kept
        self._begun = False
        self._sent_at = time.monotonic()
        self._sending = asyncio.Lock()
        self._held = b""
        self._flushing: asyncio.Task[None] | None = None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stream:
            if not self._streamed:
                await super()._answer(scope, receive, send)
                return
            beats = asyncio.ensure_future(self._beat(send))
            try:
                await self._pieces(send)
            finally:
                beside = [beats] if self._flushing is None else [beats, self._flushing]
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)

    async def _whole(self) -> Response:
        async for _ in self._stream:
            pass
        completion = self._stream.completion
        if self._kept is not None:
            self._kept(completion)
        reporter = self._gateway.reporter
        body = self._writer.whole(completion, reporter.body(completion))
        return json_response(body, headers=reporter.headers(completion.route))

    async def _pieces(self, send: Send) -> None:
        stream, writer = self._stream, self._writer
        try:
            async for piece in stream:
                await self._send(send, stream.route, writer.piece, piece, joins=True)
            completion = stream.completion
            if self._kept is not None:
                self._kept(completion)
        except Exception as error:
            if not self._begun:
                raise
            # The status is out; the client reads what went wrong where the text would go on.
            problem = problem_of(error, writer.names)
            await self._send(send, None, writer.failed, problem)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await self._send(send, completion.route, writer.end, completion, self._gateway.reporter.body(completion))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(
        self, send: Send, route: Route | None, write: Callable[..., bytes], *given: Any, joins: bool = False
    ) -> None:
        """Send what `write` makes of `given`; what `joins` goes with what comes within the next moment."""
        async with self._sending:
            data = b""
            if not self._begun:
                self._begun = True
                headers = {
                    "content-type": self._writer.media,
                    "cache-control": "no-cache",
                    "x-accel-buffering": "no",  # proxies that collect would hide the stream
                    **self._gateway.reporter.headers(route),
                }
                pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
                await send({"type": "http.response.start", "status": 200, "headers": pairs})
                data = self._writer.begin()
            elif joins and time.monotonic() < self._sent_at + JOIN_S:
                self._held += write(*given)
                if self._flushing is None:
                    self._flushing = asyncio.ensure_future(self._flush(send))
                return
            data += write(*given)
            await self._out(send, data)

    async def _out(self, send: Send, data: bytes) -> None:
        data, self._held = self._held + data, b""
        self._sent_at = time.monotonic()
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _flush(self, send: Send) -> None:
        """Send what is held, at the end of its moment: the next piece may be long in coming."""
        await asyncio.sleep(max(0.0, self._sent_at + JOIN_S - time.monotonic()))
        async with self._sending:
            self._flushing = None
            await self._out(send, b"")

    async def _beat(self, send: Send) -> None:
        """Say something where nothing else does: a long prompt is silent, and proxies give up on silence."""
        if not self._writer.beat:
            return
        every = self._gateway.keep_alive
        while True:
            await asyncio.sleep(max(0.0, self._sent_at + every - time.monotonic()))
            if time.monotonic() - self._sent_at >= every:
                await self._send(send, None, lambda: self._writer.beat)


def caller_of(scope: Scope) -> str:
    """Return who asks: the name of the token that was shown, else the address; as the server's gRPC side calls them."""
    if "crayon.caller" in scope:
        return f"token:{scope['crayon.caller']}"
    client = scope.get("client")
    host = str(client[0]) if client else ""
    return f"ipv6:%5B{host}%5D" if ":" in host else f"ipv4:{host}"


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
