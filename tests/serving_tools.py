"""A real server on loopback for tests: in a thread of this process, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from crayon.engine import (
    BLEND,
    ENCODE,
    GENERATE,
    SCORE,
    EncodeRequest,
    EncodeResult,
    Event,
    GenerateRequest,
    ModelInfo,
    ScoreRequest,
    ScoreResult,
    Stream,
)
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.config import ServeConfig
from crayon.server.serve import Server
from crayon.stream import Promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crayon.engine import Engine
    from crayon.errors import CrayonError

PATIENCE = 60.0  # for machines that have other things to do; nothing here measures time
LONG = "and then he went on and on about it " * 200


def ask(text: str = "hello there", **more: Any) -> GenerateRequest:
    request = {name: more.pop(name) for name in ("deadline", "request_id", "model", "blend") if name in more}
    return GenerateRequest(
        messages=(Message("user", text),), sampling=Sampling(**{"max_tokens": 2000, **more}), **request
    )


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or process brings about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


class Serving:
    """A server in a thread with an event loop of its own; `with` it, and find it at `address`."""

    def __init__(self, factory: Callable[[], Engine], *, wait: bool = True, **config: Any) -> None:
        self._factory = factory
        self._wait = wait
        self._config = ServeConfig(**{"port": 0, "drain_seconds": 5.0, **config})
        self._bound: Future[str] = Future()
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="test-server")
        self._stop: Callable[[], None] = lambda: None

    async def _main(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        self.server = Server(self._config)
        self._bound.set_result(await self.server.start())
        loading = asyncio.create_task(self.server.load(self._factory))
        loading.add_done_callback(lambda done: self._loaded.set_result(None) if not done.cancelled() else None)
        await stop.wait()
        loading.cancel()
        await self.server.stop()

    @property
    def address(self) -> str:
        return self._bound.result(PATIENCE)

    @property
    def health_address(self) -> str:
        """Where only health is told; empty where there is no such port."""
        return self.server._probed.address

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def wait_loaded(self) -> None:
        self._loaded.result(PATIENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        if self._wait:
            self.wait_loaded()
        return self

    def begin_stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended already, and its loop with it
            self._stop()

    def stop(self) -> None:
        self.begin_stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()


class ScriptedEngine:
    """Answers every request with the same events, and then the error if there is one."""

    def __init__(
        self,
        *events: Event,
        error: CrayonError | Exception | None = None,
        raise_at_once: bool = False,
        capabilities: frozenset[str] = frozenset({GENERATE, SCORE, ENCODE, BLEND}),
    ) -> None:
        self.events = events
        self.error = error
        self.raise_at_once = raise_at_once
        self.capabilities = capabilities
        self.asked: list[GenerateRequest | ScoreRequest | EncodeRequest] = []
        self.streams: list[Stream] = []
        self.futures: list[Future[Any]] = []
        self.used = 0

    def models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo("scripted", 100, "ab" * 32, "Q8_0", self.capabilities),)

    def generate(self, request: GenerateRequest) -> Stream:
        self.asked.append(request)
        if self.raise_at_once and self.error is not None:
            raise self.error
        stream = Stream()
        self.streams.append(stream)
        for event in self.events:
            stream.push(event)
        if self.error is not None:
            stream.fail(self.error)  # type: ignore[arg-type] # an engine may have bugs, too
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        return self._future(request)

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        return self._future(request)

    def _future(self, request: Any) -> Future[Any]:
        self.asked.append(request)
        future: Future[Any] = Promise[Any](used=lambda: self.used).future
        self.futures.append(future)
        if self.error is not None:
            if self.raise_at_once:
                raise self.error
            future.set_exception(self.error)
        return future

    def close(self) -> None:
        pass


class ServerProcess:
    """`crayon serve --engine echo` as a process of its own, which can be killed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.ready_file = folder / "address"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CRAYON_")}
        command = [sys.executable, "-c", "from crayon.cli import main; main()", "serve", "--engine", "echo"]
        if "--port" not in options:
            # Not the default one, which another test, or a user of this machine, may have.
            command += ["--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--ready-file", str(self.ready_file), *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=environ,
        )
        try:
            until(lambda: self.ready_file.exists() or self.process.poll() is not None)
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise
        assert self.process.poll() is None, self.process.communicate()[1]
        self.address = self.ready_file.read_text().strip()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was said."""
        self.process.wait(PATIENCE)
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read()


@contextlib.contextmanager
def server_process(folder: Path, *options: str) -> Iterator[ServerProcess]:
    running = ServerProcess(folder, *options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.signal(signal.SIGKILL)
            running.process.wait(PATIENCE)
        if running.process.stderr is not None:
            running.process.stderr.close()
