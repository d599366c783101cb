"""What a machine does to a server: the clock jumps, the disk is full, and it is told to stop while it is busy."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from fault_tools import FaultServer, aftermath, check_client, first_delta, remote, warmed
from serving_tools import LONG, PATIENCE, ask, until

from crayon.engine import deadline_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_tools import Fault

DAY = 86_400
WORDS = "one two three four five " * 8


class Clock:
    """A wall clock that one process sees, and that can be moved while it runs."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "jump"
        self._file.write_bytes(struct.pack("=q", 0))
        library = folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(self._file)}

    def jump(self, seconds: int) -> None:
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", seconds))


@pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("cc"), reason="needs Linux and cc")
@pytest.mark.parametrize("jump", [pytest.param(DAY, marks=pytest.mark.long), -DAY], ids=["forth", "back"])
def test_the_clock_jumps(fault: Callable[..., Fault], tmp_path: Path, jump: int) -> None:
    way = "forth" if jump > 0 else "back"
    seen = "nothing: answers; `DeadlineExceededError` at its time, and no other"
    found = fault(f"clock jumps {way}", "a day, in the server's process, amid 40 streams", seen)
    clock = Clock(tmp_path)
    values = {"delay": 0.02, "slots": 64, "context_tokens": 8192}
    with FaultServer(environment=clock.environment, values=values) as server:
        before = warmed(server).census()
        client = remote(server.address)
        whole = [client.generate(ask(WORDS)) for _ in range(20)]
        short = [client.generate(ask(LONG, deadline=deadline_after(1.5))) for _ in range(20)]
        for stream in (*whole, *short):
            first_delta(stream)
        clock.jump(jump)
        assert abs(server.command(time=True)["time"] - time.time() - jump) < DAY / 2, "the clock did not jump"
        texts = found.tally.read(whole)
        found.tally.read([client.generate(ask("hello there"))])
        found.tally.read(short)
        client.close()
        assert all(WORDS.endswith(text) for text in texts)
        assert found.tally.answered == 21
        assert found.tally.statuses == {"DeadlineExceededError": 20}
        aftermath(found, server, before)


@pytest.mark.parametrize("engine", ["echo", "tiny"])
def test_stopped_under_load(fault: Callable[..., Fault], tiny_path: Path, engine: str) -> None:
    seen = "answers within the drain, `ServerInterruptedError` or `ServerUnavailableError` after it"
    found = fault(f"SIGTERM under load, {engine}", "amid 60 requests, half too long for the drain of 1 s", seen)
    if engine == "tiny":
        values = {"n_ctx": 4096, "n_seq_max": 4, "threads": 1}
        server = FaultServer(tiny=str(tiny_path), values=values, config={"drain_seconds": 1.0})
    else:
        server = FaultServer(values={"delay": 0.01, "context_tokens": 8192}, config={"drain_seconds": 1.0})
    with server:
        client = remote(server.address)
        streams = [client.generate(ask(WORDS, max_tokens=10 if n % 2 else 600, ignore_eos=True)) for n in range(60)]
        first_delta(streams[0])
        server.process.send_signal(signal.SIGTERM)
        found.tally.read(streams)
        assert server.end() == 0
        assert "Traceback" not in server.said()
        client.close()
    assert set(found.tally.statuses) <= {"ServerInterruptedError", "ServerUnavailableError"}
    check_client(found)
    found.checked.append("the server exits with 0")


@pytest.mark.parametrize(
    ("name", "redirected"),
    [("disk full for logs", ">/dev/full 2>/dev/full"), ("standard streams closed", "<&- >&- 2>&-")],
)
def test_nowhere_to_write(fault: Callable[..., Fault], tmp_path: Path, name: str, redirected: str) -> None:
    found = fault(name, f"`crayon serve {redirected}`", "nothing: answers")
    ready = tmp_path / "address"
    command = [sys.executable, "-m", "crayon", "serve", "--engine", "echo", "--port", "0", "--ready-file", str(ready)]
    with subprocess.Popen(["sh", "-c", f'exec "$@" {redirected}', "sh", *command]) as process:
        until(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None
        client = remote(ready.read_text().strip())
        held = psutil.Process(process.pid).memory_info().rss
        found.tally.read([client.generate(ask("hello there")) for _ in range(20)])
        found.growth_mib = (psutil.Process(process.pid).memory_info().rss - held) / 2**20
        client.close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert found.tally.answered == 20
    check_client(found)
    found.checked.append("the server exits with 0")
