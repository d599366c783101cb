"""What every test of a fault shares: a server that can fail, what became of requests, and what must hold after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from serving_tools import PATIENCE, ask, until

from crayon.client import Breaker, RemoteEngine
from crayon.engine import Delta, Finished
from crayon.errors import CrayonError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crayon.engine import Stream

MIB = 2**20
MOST_GROWTH_MIB = 32
# What is asserted after a fault, as the table says it.
ENDED = "every request ended"
NOTHING_LEFT = "no request, sequence, task, thread or connection is left"
WORKS = "the next request works"
FLAT = f"memory grew by at most {MOST_GROWTH_MIB} MiB"
HURRY = 20
ECHO = {"delay": 0.03, "slots": 512, "context_tokens": 8192}
FAULT_SERVER = Path(__file__).with_name("fault_server.py")


class FaultServer:
    """`fault_server.py` as a process; `with` it, command it, and find it at `address`.

    `tiny` names a model file for the llama.cpp engine; without it the echo engine answers.
    """

    def __init__(self, *, environment: dict[str, str] | None = None, **wanted: Any) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CRAYON_")}
        self.process = subprocess.Popen(
            [sys.executable, str(FAULT_SERVER), json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, "GRPC_VERBOSITY": "NONE", **(environment or {})},
        )
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.said()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self._said.extend(self.process.stderr)

    def command(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait(PATIENCE)
            raise AssertionError(f"the server ended instead of answering {command}:\n{self.said()}")
        return json.loads(answer)

    def census(self) -> dict[str, int]:
        return self.command(census=True)

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    def said(self) -> str:
        """Return its log so far; all of it once it has ended."""
        if self.process.poll() is not None:
            self._listener.join(PATIENCE)
        return "".join(self._said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._listener.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def remote(address: str, **values: Any) -> RemoteEngine:
    """A client as the SDK has it, but for a breaker that never opens: every request is to meet the fault itself."""
    return RemoteEngine(address, breaker=Breaker(failures=10**6), **{"timeout": PATIENCE, **values})


@dataclass
class Tally:
    """What became of requests: an answer, a status, or nothing within the patience (lost)."""

    sent: int = 0
    answered: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    lost: int = 0

    def read(self, streams: Iterable[Stream], patience: float = PATIENCE) -> list[str]:
        """Read streams to their ends and return their texts."""
        end = time.monotonic() + patience
        return [self._read(stream, end) for stream in streams]

    def _read(self, stream: Stream, end: float) -> str:
        self.sent += 1
        text = ""
        try:
            while (event := stream.get(max(0.0, end - time.monotonic()))) is not None:
                if isinstance(event, Delta):
                    text += event.text
                elif isinstance(event, Finished):
                    self.answered += 1
                    return text
        except CrayonError as error:
            self.statuses[type(error).__name__] += 1
            return text
        except StopIteration:
            pass  # it ended in neither: as good as lost
        self.lost += 1
        return text

    def status(self, name: str) -> None:
        """Count a request that ended in a status."""
        self.sent += 1
        self.statuses[name] += 1

    def answer(self, count: int = 1) -> None:
        """Count requests that were answered."""
        self.sent += count
        self.answered += count


def warmed(server: FaultServer) -> FaultServer:
    """Let a server begin every thread that it keeps, so that its census before a fault is that of a server in use."""
    client, tally = remote(server.address), Tally()
    tally.read([client.generate(ask("hello there", max_tokens=4)) for _ in range(30)])
    # A long prompt begins the thread that such are prepared on.
    tally.read([client.generate(ask("tea " * 2000, max_tokens=4))])
    client.close()
    return server


@dataclass
class Fault:
    """One row of the table in docs/explanation/reliability.md."""

    name: str
    injected: str
    seen: str
    tally: Tally = field(default_factory=Tally)
    checked: list[str] = field(default_factory=list)
    growth_mib: float | None = None


def first_delta(stream: Stream) -> None:
    """Read up to the first piece of text."""
    while not isinstance(stream.get(PATIENCE), Delta):
        pass


def check_client(fault: Fault) -> None:
    """Every request has ended, in an answer or a status, and no thread of a client is left."""
    tally = fault.tally
    assert tally.lost == 0, tally
    assert tally.sent == tally.answered + sum(tally.statuses.values()) > 0, tally
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "crayon-remote"])
    fault.checked.append(ENDED)


HELD = ("rpcs", "requests", "spilled", "sequences")
STEADY = ("tasks", "threads", "connections")


def aftermath(fault: Fault, server: FaultServer, before: dict[str, int], access: dict[str, Any] | None = None) -> None:
    """Assert what must hold after any fault that the server survives; the clients of the fault are closed.

    `access` is what the server wants of the next request's client.

    Nothing is held for requests that have ended, no task, thread or connection is left of them, memory is where it
    was, and the next request works.
    """
    check_client(fault)
    now: dict[str, int] = {}

    def calm() -> bool:
        now.update(server.census())
        steady = all(now[name] <= before[name] for name in STEADY)
        return steady and not any(now.get(name) for name in HELD)

    try:
        until(calm)
    except AssertionError:
        raise AssertionError(f"left behind: {now}, before it was {before}") from None
    fault.checked.append(NOTHING_LEFT)
    again = remote(server.address, **(access or {}))
    check = Tally()
    check.read([again.generate(ask("hello there", max_tokens=4))])
    again.close()
    assert check.answered == 1, check
    fault.checked.append(WORKS)
    fault.growth_mib = (server.census()["rss"] - before["rss"]) / MIB
    assert fault.growth_mib <= MOST_GROWTH_MIB
    fault.checked.append(FLAT)
