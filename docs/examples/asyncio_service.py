"""Many callers, one client: an asyncio service that answers lines of text over a socket.

It is asked by three clients of its own at the end, so that it can be run alone. Each line in gets one line of JSON out.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from crayon import AsyncCrayon, CrayonError, OverloadedError

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter


class Service:
    """Answers lines; at most `at_once` questions are with the engine at a time."""

    def __init__(self, crayon: AsyncCrayon, at_once: int = 4) -> None:
        self._crayon = crayon
        self._room = asyncio.Semaphore(at_once)

    async def handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer one connection's lines until it ends. A client that goes away cancels what it asked for."""
        async for line in reader:
            writer.write(json.dumps(await self.answer(line.decode().strip())).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def answer(self, question: str) -> dict[str, object]:
        """Return the answer, or what went wrong in words that a client may see."""
        try:
            async with self._room:
                answer = await self._crayon.ask(question, max_tokens=24, timeout=120)
        except OverloadedError as error:
            return {"error": "busy", "retry_after_s": error.retry_after}
        except CrayonError as error:
            return {"error": str(error)}
        return {"answer": answer.text.strip(), "from": answer.route.source, "ms": round(answer.total_ms)}


async def ask(port: int, question: str) -> dict[str, object]:
    """Ask the service one question, as a client would."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(question.encode() + b"\n")
    writer.write_eof()
    reply: dict[str, object] = json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return reply


async def main() -> None:
    """Serve, ask three questions at once, and end."""
    async with AsyncCrayon(system="Answer in one short sentence.") as crayon:
        await crayon.load()  # so that the first caller does not wait for the model
        server = await asyncio.start_server(Service(crayon).handle, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            questions = ("Why is the sky blue?", "What do bees make?", "")
            for reply in await asyncio.gather(*(ask(port, question) for question in questions)):
                print(reply)


asyncio.run(main())
