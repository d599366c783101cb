"""A server as a child process that cannot outlive us, with its log kept for when it fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess  # servers are other programs on purpose: what they compute is not ours
import tempfile
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from crayon.errors import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

READY_SECONDS = 180.0
STOP_SECONDS = 10.0
PAUSE_SECONDS = 0.05
TAIL_BYTES, TAIL_LINES = 4096, 12


class Child:
    """A started command. `stop` it; where we are killed, the end of its standard input tells it.

    Args:
        name: what errors call it.
        command: program and arguments.
        environment: all its variables; None for ours.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        # Without a name in the file system, so that nothing is left of it.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours, and no shell reads it
                list(command),
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,  # Ctrl-C is for us, and a program that is only a launcher ends with what it launched
            )
        except OSError as error:
            self._log.close()
            raise ServerUnavailableError(f"{name} cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_ready(self, ready: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
        """Wait until `ready` says so.

        Raises:
            ServerUnavailableError: it ended or took too long; a note holds the end of what it said.
        """
        end = time.monotonic() + seconds
        while not ready():
            code = self._process.poll()
            if code is not None:
                raise self.failure(f"{self.name} ended with code {code} before it could serve")
            if time.monotonic() >= end:
                raise self.failure(f"{self.name} was not ready after {seconds:g} s")
            time.sleep(PAUSE_SECONDS)

    def failure(self, what: str) -> ServerUnavailableError:
        """Return an error that says `what`, with the end of the child's log as its notes."""
        error = ServerUnavailableError(what)
        for line in self.said().splitlines()[-TAIL_LINES:]:
            error.add_note(f"  {self.name}: {line}")
        return error

    def said(self) -> str:
        """Return the end of what it wrote."""
        size = os.fstat(self._log.fileno()).st_size
        # pread: the child shares this file's position, and must not be moved.
        return os.pread(self._log.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")

    def stop(self) -> None:
        """End it, and all it started. Safe to call twice."""
        process = self._process
        try:
            self._signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            process.wait()
        finally:
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
            self._log.close()

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def free_port() -> int:
    """Return a loopback port that was free a moment ago: for programs that cannot pick one themselves."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
