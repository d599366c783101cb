"""As much HTTP/1.1 as llama-server's streams need, on asyncio's own sockets: nothing of it waits for a thread."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from crayon.errors import ServerError, ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

MAX_LINE = 1 << 20
MAX_HEADERS = 100


async def post_events(host: str, port: int, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Post JSON and yield the server-sent events, each a JSON object. Closing the iterator closes the connection.

    Raises:
        ServerUnavailableError: nothing listens there.
        ServerError: the status is not 200, or the answer is not such a stream.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=MAX_LINE)
    except OSError as error:
        raise ServerUnavailableError(f"{host}:{port}: {error}") from error
    try:
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + data)
        await writer.drain()
        status, headers = await _head(reader)
        chunks = _chunked(reader) if headers.get("transfer-encoding", "").lower() == "chunked" else _plain(reader)
        if status != 200:
            said = b"".join([part async for part in chunks])
            raise ServerError(f"{path} answers with status {status}: {said[:300].decode('utf-8', 'replace')}")
        async for line in _lines(chunks):
            if line.startswith(b"error:"):
                raise ServerError(f"{path} broke off: {line[:300].decode('utf-8', 'replace')}")
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                yield _object(line[5:])
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ServerError(f"{path} broke off: {error!r}") from error
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    words = (await reader.readline()).split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ServerError("what answers does not speak HTTP")
    headers: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        line = (await reader.readline()).strip()
        if not line:
            return int(words[1]), headers
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    raise ServerError(f"an answer has more than {MAX_HEADERS} headers")


async def _chunked(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        line = await reader.readline()
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise ServerError("an answer broke off between two chunks") from None
        if size == 0:
            return
        yield await reader.readexactly(size)
        await reader.readline()


async def _plain(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while part := await reader.read(MAX_LINE):
        yield part


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for part in chunks:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.strip()
    if rest:
        yield rest.strip()


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ServerError(f"an event is no JSON object: {data[:100]!r}")
    return found
