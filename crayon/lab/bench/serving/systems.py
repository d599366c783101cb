"""The systems that are raced: what each is started with, and how one answer of it is read over the wire."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from crayon.client.events import EventClient
from crayon.engine import Delta, Finished, GenerateRequest
from crayon.errors import ServerError
from crayon.lab.bench.serving.http_stream import post_events
from crayon.lab.bench.serving.processes import Child, free_port
from crayon.sampling import Sampling
from crayon.server.engines.llama.counters import shares

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from crayon.completion import Blend
    from crayon.lab.bench.serving.prompts import Prompt

PATIENCE_S = 1000.0  # the client gives up before
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSettings:
    """What a server is started with, whichever it is.

    Args:
        slots: most requests computed together (`-np`).
        context: tokens that one request may hold; the cache holds `slots` times as many.
        threads: compute threads.
        batch: most tokens of a step (`-b`); None is the server's own choice.
        ubatch: most tokens of one graph (`-ub`), for servers that tell the two apart.
        parts: engine calls that a step is computed in (`--nano-batches` of ours); None is the server's own choice.
        options: further options of ours.
    """

    slots: int
    context: int
    threads: int
    batch: int | None = None
    ubatch: int | None = None
    parts: int | None = None
    options: tuple[str, ...] = field(default=())

    def describe(self) -> str:
        """Say the settings as the server's own flags."""
        text = f"-np {self.slots}"
        text += f" -b {self.batch}" if self.batch else ""
        text += f" -ub {self.ubatch}" if self.ubatch else ""
        text += f" --nano-batches {self.parts}" if self.parts else ""
        return " ".join([text, *self.options])


class Connection(Protocol):
    """A system that can be asked, in one event loop."""

    def stream(self, prompt: Prompt, answer: int, blend: Blend | None = None) -> AsyncIterator[int]:
        """Yield, each time something arrives, how many new tokens it brought; `answer` of them in all."""
        ...


class System(Protocol):
    """A server with its settings: runs while in its `with` block."""

    @property
    def name(self) -> str:
        """What rows call it."""
        ...

    @property
    def settings(self) -> SystemSettings:
        """What it was started with."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Return a connection for one event loop."""
        ...

    def statistics(self) -> Mapping[str, float]:
        """Return what the server itself counted since its start: shares that explain where time went; may be empty."""
        ...


class CrayonSystem:
    """`crayon serve` on one model file, asked over gRPC.

    Args:
        path: the model file.
        settings: slots, context and threads.
        pools: adapter pools to serve, by name or folder.
    """

    name = "crayon"

    def __init__(self, path: Path, settings: SystemSettings, pools: tuple[str, ...] = ()) -> None:
        self.settings = settings
        self._path = path
        self._pools = pools
        self._stack = ExitStack()
        self._counters: Path | None = None
        self.address = ""

    def command(self, ready_file: Path) -> list[str]:
        """Return the command line; the server's counters are kept beside the ready file."""
        settings = self.settings
        command = [sys.executable, "-P", "-m", "crayon", "serve", "--model", str(self._path), "--port", "0"]
        # What is raced is what the row says, not what a record on this machine adds.
        command += ["--no-tune"]
        command += ["--slots", str(settings.slots), "--ctx", str(settings.slots * settings.context)]
        command += ["--threads", str(settings.threads), "--drain-seconds", "1"]
        if settings.batch:
            command += ["--batch", str(settings.batch)]
        if settings.parts:
            command += ["--nano-batches", str(settings.parts)]
        for pool in self._pools:
            command += ["--pool", pool]
        command += ["--stats-file", str(ready_file.with_name("counters.json"))]
        return [*command, "--ready-file", str(ready_file), "--exit-on-stdin-eof", *settings.options]

    def __enter__(self) -> Self:
        from crayon.config import child_environment

        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="crayon-bench-"))
            ready_file = Path(folder) / "address"
            self._counters = ready_file.with_name("counters.json")
            child = Child(self.name, self.command(ready_file), child_environment())
            stack.callback(child.stop)
            child.wait_ready(ready_file.exists)
            self.address = ready_file.read_text(encoding="utf-8").strip()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Open a channel."""
        async with EventClient(self.address, timeout=PATIENCE_S) as client:
            yield GrpcConnection(client)

    def statistics(self) -> Mapping[str, float]:
        """Return the shares of what the server has counted since its start, up to a third of a second ago."""
        if self._counters is None or not self._counters.exists():
            return {}
        return shares(json.loads(self._counters.read_text(encoding="utf-8")))


class GrpcConnection:
    """Our server's answers, without signals: peers send none either."""

    def __init__(self, client: EventClient) -> None:
        self._client = client

    async def stream(self, prompt: Prompt, answer: int, blend: Blend | None = None) -> AsyncIterator[int]:
        """Yield the number of tokens of each event that brings some.

        Raises:
            ServerError: it reads another number of prompt tokens.
            CrayonError: whatever the server says.
        """
        sampling = Sampling(max_tokens=answer, ignore_eos=True)
        request = GenerateRequest(messages=prompt.messages, sampling=sampling, blend=blend, signals=False)
        async for event in self._client.generate(request):
            if isinstance(event, Delta) and event.tokens:
                yield event.tokens
            elif isinstance(event, Finished) and event.usage.prompt_tokens != len(prompt.ids):
                raise ServerError(f"crayon read {event.usage.prompt_tokens} prompt tokens instead of {len(prompt.ids)}")


class LlamaServer:
    """llama.cpp's own `llama-server`, asked over HTTP with the very tokens that ours reads.

    Args:
        program: the executable.
        path: the model file.
        settings: its `-np`, `-b`, `-ub`, context and threads.
        reuse_prefix: let a prompt go on from what a slot still holds; off, as prompts share nothing.
    """

    name = "llama-server"

    def __init__(self, program: Path, path: Path, settings: SystemSettings, *, reuse_prefix: bool = False) -> None:
        self.settings = settings
        self._program = program
        self._path = path
        self._reuse_prefix = reuse_prefix
        self._stack = ExitStack()
        self.port = 0

    def command(self, port: int) -> list[str]:
        """Return the command line."""
        settings = self.settings
        command = [str(self._program), "-m", str(self._path), "--host", HOST, "--port", str(port)]
        command += ["-np", str(settings.slots), "-c", str(settings.slots * settings.context)]
        command += ["-t", str(settings.threads), "-tb", str(settings.threads)]
        # Its threads for connections wait most of the time; too few of them would let clients wait, too.
        command += ["--threads-http", str(max(64, 2 * settings.slots))]
        if not self._reuse_prefix and knows(self._program, "--cache-ram"):
            command += ["--cache-ram", "0"]  # else it copies every finished prompt away, for nobody
        if settings.batch:
            command += ["-b", str(settings.batch)]
        if settings.ubatch:
            command += ["-ub", str(settings.ubatch)]
        return [*command, *settings.options]

    def __enter__(self) -> Self:
        self.port = free_port()
        child = Child(self.name, self.command(self.port))
        with ExitStack() as stack:
            stack.callback(child.stop)
            child.wait_ready(lambda: is_up(self.port))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Each answer opens a connection of its own, as its users do."""
        yield HttpConnection(self.port, reuse_prefix=self._reuse_prefix)

    def statistics(self) -> Mapping[str, float]:
        """Return nothing: a peer is not taken apart."""
        return {}


class HttpConnection:
    """llama-server's answers: its events count the tokens so far."""

    def __init__(self, port: int, *, reuse_prefix: bool = False) -> None:
        self._port = port
        self._reuse_prefix = reuse_prefix

    async def stream(self, prompt: Prompt, answer: int, blend: Blend | None = None) -> AsyncIterator[int]:
        """Yield the number of tokens of each event that brings some.

        Raises:
            ServerError: it reads another number of prompt tokens, or says that it failed.
        """
        if blend is not None:
            raise ServerError("llama-server cannot blend adapters")
        body = {
            "prompt": list(prompt.ids),
            "n_predict": answer,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": self._reuse_prefix,
            "return_tokens": True,
            "stream": True,
        }
        told = 0
        async for event in post_events(HOST, self._port, "/completion", body):
            if "error" in event:
                raise ServerError(f"llama-server says: {event['error']}")
            if event.get("stop"):
                self._check(event, prompt)
                count = int(event.get("tokens_predicted", told))
            else:
                # Older versions do not count; there an event is a token.
                count = int(event.get("tokens_predicted", told + (len(event.get("tokens", ())) or 1)))
            if count > told:
                yield count - told
                told = count

    def _check(self, event: Mapping[str, object], prompt: Prompt) -> None:
        read = event.get("tokens_evaluated")
        # With a prefix reused, versions differ in whether they count it.
        if not self._reuse_prefix and isinstance(read, int) and read != len(prompt.ids):
            raise ServerError(f"llama-server read {read} prompt tokens instead of {len(prompt.ids)}")


def is_up(port: int) -> bool:
    """Whether llama-server answers and has loaded its model."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def knows(program: Path, flag: str) -> bool:
    """Whether a program names a flag in its help; versions differ."""
    try:
        command = [str(program), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - a peer
    except (OSError, subprocess.TimeoutExpired):
        return False
    return flag in done.stdout
