"""OpenVINO GenAI as a system: its continuous batching in a worker process, asked over a loopback socket."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from crayon.errors import ServerError
from crayon.lab.bench.serving.processes import Child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from crayon.completion import Blend
    from crayon.lab.bench.serving.prompts import Prompt
    from crayon.lab.bench.serving.systems import Connection, SystemSettings

WORKER = Path(__file__).with_name("openvino_worker.py")
CACHE_GIB = 2
HOST = "127.0.0.1"
MAX_LINE = 1 << 20


class OpenVino:
    """OpenVINO GenAI on one model file.

    Args:
        python: the interpreter of its environment.
        path: the model file; it reads GGUF itself.
        settings: slots, tokens of a step and threads.
    """

    name = "openvino-genai"

    def __init__(self, python: Path, path: Path, settings: SystemSettings) -> None:
        self.settings = settings
        self._python = python
        self._path = path
        self._stack = ExitStack()
        self.port = 0

    def __enter__(self) -> Self:
        settings = self.settings
        # -P: the worker's folder holds our modules, which must not stand before its own libraries.
        command = [str(self._python), "-P", str(WORKER), str(self._path), str(settings.slots), str(CACHE_GIB)]
        command += [str(settings.batch or 0), str(settings.threads)]
        child = Child(self.name, command, {**os.environ, "PYTHONPATH": ""})
        with ExitStack() as stack:
            stack.callback(child.stop)
            child.wait_ready(lambda: _port(child.said()) > 0)
            self.port = _port(child.said())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Open the one connection that carries all answers."""
        reader, writer = await asyncio.open_connection(HOST, self.port, limit=MAX_LINE)
        connection = LineConnection(writer)
        listening = asyncio.create_task(connection.listen(reader))
        try:
            yield connection
        finally:
            listening.cancel()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def statistics(self) -> Mapping[str, float]:
        """Return nothing: a peer is not taken apart."""
        return {}


class LineConnection:
    """Requests and tokens as JSON lines, many answers on one connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = itertools.count(1)
        self._queues: dict[int, asyncio.Queue[dict[str, Any]]] = {}

    async def stream(self, prompt: Prompt, answer: int, blend: Blend | None = None) -> AsyncIterator[int]:
        """Yield the number of tokens of each line that brings some.

        Raises:
            ServerError: the worker failed.
        """
        if blend is not None:
            raise ServerError("OpenVINO GenAI gets no blends here")
        number = next(self._numbers)
        lines = self._queues[number] = asyncio.Queue()
        try:
            self._writer.write(json.dumps({"id": number, "ids": prompt.ids, "answer": answer}).encode() + b"\n")
            await self._writer.drain()
            while not (line := await lines.get()).get("done"):
                if "error" in line:
                    raise ServerError(f"OpenVINO GenAI says: {line['error']}")
                yield int(line["tokens"])
        finally:
            del self._queues[number]

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Hand each line to the answer it belongs to, until the worker goes."""
        with suppress(OSError):
            while data := await reader.readline():
                line = json.loads(data)
                if line["id"] in self._queues:
                    self._queues[line["id"]].put_nowait(line)
        for lines in self._queues.values():
            lines.put_nowait({"error": "it has ended"})


def _port(said: str) -> int:
    """Return the port that the worker told, among what its library writes, 0 if it has not yet."""
    for line in said.splitlines():
        if line.startswith('{"port":') and line.endswith("}"):
            return int(json.loads(line)["port"])
    return 0
