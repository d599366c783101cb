"""A TCP relay on loopback whose connections can be cut, frozen, slowed and thawed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PATIENCE = 60.0


@dataclass(eq=False)
class Link:
    """One relayed connection: both ends, and what holds its bytes up."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    seconds_per_byte: float = 0.0

    def cut(self) -> None:
        """Reset both sides, as a router does that has forgotten the connection."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Relays every connection to `target` ("host:port"); `with` it, and connect to `address`."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._links: list[Link] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-proxy")
        self._stopped = asyncio.Event()
        self.address = ""
        self.refuse = False
        """Whether new connections are closed at once."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(self._listen())
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    @property
    def links(self) -> int:
        """How many connections have been made so far, the ended ones included."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection; new ones are relayed as ever."""
        self._each(Link.cut)

    def freeze(self) -> None:
        """Pass nothing on any more over the connections there are, and close none; new ones are not touched."""
        self._each(lambda link: link.flowing.clear())

    def thaw(self) -> None:
        """Pass on what was held back, in its order."""
        self._each(lambda link: link.flowing.set())

    def slow(self, seconds_per_byte: float) -> None:
        """Let the bytes of the connections there are trickle, each way."""
        self._each(lambda link: setattr(link, "seconds_per_byte", seconds_per_byte))

    # -- inside

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _each(self, action: Callable[[Link], object]) -> None:
        done: Future[None] = Future()

        def run() -> None:
            for link in self._links:
                action(link)
            done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result(PATIENCE)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._relay, "127.0.0.1", 0)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        link = Link((writer, far_writer))
        link.flowing.set()
        self._links.append(link)
        pumps = [self._pump(link, reader, far_writer), self._pump(link, far_reader, writer)]
        with contextlib.suppress(asyncio.CancelledError):  # the proxy ends
            await asyncio.gather(*pumps, return_exceptions=True)
        for each in link.writers:
            each.close()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            for start in range(0, len(data), 1 if link.seconds_per_byte else len(data)):
                await link.flowing.wait()
                if link.seconds_per_byte:
                    await asyncio.sleep(link.seconds_per_byte)
                    writer.write(data[start : start + 1])
                else:
                    writer.write(data)
                await writer.drain()
        await link.flowing.wait()
        writer.write_eof()

    async def _end(self) -> None:
        self._server.close()
        for link in self._links:
            link.cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
