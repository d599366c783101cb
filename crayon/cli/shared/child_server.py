"""A server that belongs to this program: `crayon serve` as a child process that cannot outlive us."""

from __future__ import annotations

import os
import subprocess  # the server is another program on purpose: its own memory, and it speaks gRPC only
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from crayon.errors import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

READY_SECONDS = 120.0
DRAIN_SECONDS = 2.0
STOP_SECONDS = 5.0
TAIL_BYTES, TAIL_LINES = 4096, 12


class ChildServer:
    """`crayon serve ARGUMENTS` on a free loopback port; leaving the `with` block stops it.

    It also stops when this process ends in any way: it watches its standard input, and we hold the other end.

    Args:
        arguments: options of `crayon serve`, without the port.
        ready_seconds: how long it may take until it serves.

    Raises:
        ServerUnavailableError: it ended, or took too long; a note holds the end of what it said.
    """

    def __init__(self, arguments: Sequence[str], ready_seconds: float = READY_SECONDS) -> None:
        self._arguments = tuple(arguments)
        self._ready_seconds = ready_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def __enter__(self) -> Self:
        # Without a name, so that nothing is left of it.
        self._log = tempfile.TemporaryFile()
        try:
            with tempfile.TemporaryDirectory(prefix="crayon-") as folder:
                self._start(Path(folder) / "address")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def exit_code(self) -> int | None:
        """The child's exit code (negative: the signal that ended it), None while it runs."""
        return self._process.poll() if self._process is not None else None

    def failure(self, what: str) -> ServerUnavailableError:
        """Return an error that says `what`, with the end of the child's log as its note."""
        error = ServerUnavailableError(what)
        size = os.fstat(self._log.fileno()).st_size
        # pread: the child shares this file's position, and must not be moved.
        tail = os.pread(self._log.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")
        for line in tail.splitlines()[-TAIL_LINES:]:
            error.add_note(f"  server: {line}")
        return error

    def stop(self) -> None:
        """Let it drain and end; kill it if it does not. Safe to call twice."""
        process = self._process
        try:
            if process is not None:
                _end(process)
        finally:
            self._log.close()

    def _start(self, ready_file: Path) -> None:
        command = [sys.executable, "-P", "-m", "crayon", "serve", *self._arguments]
        command += ["--port", "0", "--ready-file", str(ready_file), "--drain-seconds", str(DRAIN_SECONDS)]
        from crayon.config import child_environment

        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--exit-on-stdin-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=child_environment(),
            process_group=0,  # Ctrl-C is for us: we stop it when we are done with it
        )
        end = time.monotonic() + self._ready_seconds
        while not ready_file.exists():
            if self.exit_code is not None:
                raise self.failure(f"the server ended with code {self.exit_code} before it could serve")
            if time.monotonic() >= end:
                raise self.failure(f"the server was not ready after {self._ready_seconds:g} s")
            time.sleep(0.05)
        self.address = ready_file.read_text(encoding="utf-8").strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.terminate()
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdin is not None:  # whatever went wrong: this ends it too
            process.stdin.close()
