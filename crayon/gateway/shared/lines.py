"""Work that tells how far it is, as lines of JSON; it ends where its client hangs up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from crayon.gateway.shared.problems import Dialect, problem_of
from crayon.gateway.shared.watched import Watched, compact, json_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from crayon.gateway.shared.gateway import Gateway

    Tell: TypeAlias = Callable[[dict[str, Any]], None]

_MEDIA = b"application/jsonl"


class Lines(Watched):
    """A response whose lines are what `work` tells, and last what it returns, or {"error": ...}.

    Args:
        gateway: counts it while it runs.
        work: is given what takes its lines, from any thread.
    """

    def __init__(self, gateway: Gateway, work: Callable[[Tell], Awaitable[dict[str, Any]]]) -> None:
        super().__init__(gateway, Dialect.OPENAI, self._nothing)
        self._work = work

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        work = asyncio.ensure_future(
            self._work(lambda line: _if_open(loop, lambda: told.put_nowait(line)))  # from any thread
        )
        work.add_done_callback(lambda _: told.put_nowait(None))
        begun = False
        try:
            while (line := await told.get()) is not None:
                begun = await self._line(send, line, begun=begun)
            try:
                last = work.result()
            except Exception as error:
                if not begun:
                    raise
                last = problem_of(error).body(Dialect.OPENAI)
            await self._line(send, last, begun=begun)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    @staticmethod
    async def _line(send: Send, line: dict[str, Any], *, begun: bool) -> bool:
        if not begun:
            headers = [(b"content-type", _MEDIA), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": compact(line) + b"\n", "more_body": True})
        return True

    @staticmethod
    async def _nothing() -> Response:
        return json_response({})


def _if_open(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Have a loop call something, if it is still there: work in a thread may outlive it."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
