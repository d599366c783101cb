"""A server as a process of its own that can be looked into and made to fail.

Run with one JSON argument; the first line it writes is its address, and each line it then reads is a command that is
answered with one line of JSON. It ends with the program that started it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil

from crayon.engine import (
    Delta,
    EncodeRequest,
    EncodeResult,
    GenerateRequest,
    ScoreRequest,
    ScoreResult,
    Started,
    Stream,
)
from crayon.errors import EngineError, KvFullError
from crayon.server import serve as serve_module
from crayon.server import service as service_module
from crayon.server.certificates import TlsFiles
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.engines.llama.engine import LlamaCppEngine

SECRET = "the words of a prompt"
STUCK = 3
"""Exit code where the engine did not close."""
PINGS = ("keepalive_time_ms", "keepalive_timeout_ms", "ping_timeout_ms", "min_ping_interval_without_data_ms")


def hurried(options: list[tuple[str, int]], times: int) -> list[tuple[str, int]]:
    """Let pings come so many times as often, for a test that need not wait for real ones."""
    return [(name, value // times if name.endswith(PINGS) else value) for name, value in options]


class FaultyEcho(EchoEngine):
    """The echo engine, which may also do what engines must not."""

    mode = ""

    def generate(self, request: GenerateRequest) -> Stream:
        if self.mode == "raises":
            raise RuntimeError(SECRET)
        if self.mode in {"breaks", "hangs", "hangs midway", "ends early"}:
            stream = Stream()
            if self.mode != "hangs":
                stream.push(Started(request.request_id, "echo"))
                stream.push(Delta("some "))
            if self.mode == "breaks":
                stream.fail(EngineError("it broke"))
            if self.mode == "ends early":
                stream.fail(RuntimeError(SECRET))  # type: ignore[arg-type] # an engine with a bug
            return stream
        return super().generate(request)

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        return Future() if "hangs" in self.mode else super().score(request)

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        return Future() if "hangs" in self.mode else super().encode(request)

    def close(self) -> None:
        if "hangs" in self.mode:
            threading.Event().wait()
        super().close()

    def census(self) -> dict[str, int]:
        return {"requests": self.running}


class FaultyTiny(LlamaCppEngine):
    """The llama.cpp engine, whose computing may fail or stand still."""

    mode = ""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._go_on = threading.Event()
        for runner in self._held.runners.runners:
            runner.decode = self._decode_of(runner.decode)  # type: ignore[method-assign] # that is the fault

    def _decode_of(self, decode: Any) -> Any:
        def run() -> None:
            if self.mode == "kv full":
                self.mode = ""
                raise KvFullError("no room in the KV cache for a batch")
            if self.mode == "raises":
                self.mode = ""
                raise RuntimeError(SECRET)
            if self.mode == "hangs":
                self._go_on.wait()
            decode()

        return run

    def set_mode(self, mode: str) -> None:
        self.mode = mode
        if mode != "hangs":
            self._go_on.set()
            self._go_on = threading.Event()

    def census(self) -> dict[str, int]:
        """Count what is held, by the loop's books and by llama.cpp itself."""
        state, runners = self._loop._state, self._held.runners.runners
        held = sum(runner.context.length(seq) > 0 for runner in runners for seq in range(self._limits.max_seqs))
        return {
            "requests": len(self._loop._tasks) + len(state) + self._loop.queue.bounds.queued,
            "spilled": len(self._loop._swap),
            "sequences": max(0, held - len(state.idle)),
        }


class Watched(serve_module.Server):
    """The server, remembered."""

    latest: Watched

    def __init__(self, config: ServeConfig, beside: serve_module.Beside | None = None) -> None:
        super().__init__(config, beside)
        Watched.latest = self


def census(loop: asyncio.AbstractEventLoop, engine: Any) -> dict[str, int]:
    async def tasks() -> int:
        return len(asyncio.all_tasks()) - 1

    gc.collect()
    process = psutil.Process()
    return {
        "rpcs": Watched.latest.running,
        "tasks": asyncio.run_coroutine_threadsafe(tasks(), loop).result(60),
        "threads": threading.active_count(),
        "connections": sum(c.status == psutil.CONN_ESTABLISHED for c in process.net_connections("tcp")),
        "rss": process.memory_info().rss,
        **engine.census(),
    }


def files(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are files, which JSON names by their paths."""
    found: dict[str, Any] = {}
    if "tokens" in wanted:
        found["tokens_file"] = Path(wanted["tokens"])
    if "tls" in wanted:
        found["tls"] = TlsFiles(**{name: Path(path) for name, path in wanted["tls"].items()})
    return found


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def obey(loop: asyncio.AbstractEventLoop, engine: Any) -> None:
    try:
        for line in iter(sys.stdin.readline, ""):
            say(json.dumps(answer_to(json.loads(line), loop, engine)))
    except BaseException:
        traceback.print_exc()  # a thread that merely ended would leave the test waiting for its answer
        raise
    finally:
        os._exit(1)


def answer_to(command: dict[str, Any], loop: asyncio.AbstractEventLoop, engine: Any) -> dict[str, Any]:
    if "mode" in command:
        set_mode = getattr(engine, "set_mode", None) or (lambda mode: setattr(engine, "mode", mode))
        set_mode(command["mode"])
    if "time" in command:
        return {"time": time.time()}
    return census(loop, engine) if "census" in command else {}


async def main(wanted: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    engine: Any = None

    def make() -> Any:
        nonlocal engine
        values = wanted.get("values", {})
        engine = FaultyTiny(Path(wanted["tiny"]), **values) if "tiny" in wanted else FaultyEcho(**values)
        return engine

    def ready(address: str) -> None:
        say(address)
        threading.Thread(target=obey, args=(loop, engine), daemon=True).start()

    serve_module.Server = Watched  # type: ignore[misc] # so that it can be looked into
    if "hurry" in wanted:
        options = serve_module._options
        serve_module._options = lambda config: hurried(options(config), wanted["hurry"])
    serve_module._CLOSE_S = wanted.get("close", serve_module._CLOSE_S)
    service_module._GRACE_S = wanted.get("grace", service_module._GRACE_S)
    config = ServeConfig(port=0, **wanted.get("config", {}), **files(wanted))
    await serve_module.serve(config, make, on_ready=ready, on_left=lambda: os._exit(STUCK))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
