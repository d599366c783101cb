"""The program as a process of its own: pipes, signals and a terminal, against a server that echoes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CRAYON = [sys.executable, "-c", "from crayon.cli import main; main()"]
PATIENCE = 60.0


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CRAYON, *arguments], capture_output=True, text=True, timeout=PATIENCE, **options)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    ready = folder / "ready"
    command = [*CRAYON, "serve", "--engine", "echo", "--port", "0", "--ready-file", str(ready), *arguments]
    # None of the developer's settings, in a fixture of a whole module, too.
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith("CRAYON_")}
    own |= {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own)
    try:
        end = time.monotonic() + PATIENCE
        while not ready.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.05)
        yield ready.read_text().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options that send everything to a running echo."""
    with serving(tmp_path_factory.mktemp("server")) as address:
        yield ["--server", address, "--mode", "only_on_server"]


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with serving(tmp_path_factory.mktemp("slow"), "--echo-delay", "0.2", "--drain-seconds", "0") as address:
        yield ["--server", address, "--mode", "only_on_server"]


def test_ask_in_a_pipe(server: list[str]) -> None:
    done = run("ask", *server, "Sum up:", input="some text\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Sum up:\n\nsome text\n", "")


def test_ask_json(server: list[str]) -> None:
    done = run("ask", *server, "--json", "Grüße", stdin=subprocess.DEVNULL)
    record = json.loads(done.stdout)
    assert record["text"] == "Grüße"
    assert record["route"]["source"] == "server"
    assert record["route"]["reason"] == "mode"
    assert record["route"]["bytes_sent"] > 0
    assert record["model"] == "echo"


def test_the_sampling_reaches_the_engine(server: list[str]) -> None:
    done = run("ask", *server, "--max-tokens", "2", "one two three four", stdin=subprocess.DEVNULL)
    assert done.stdout.split() == ["one", "two"]


def test_an_absent_server_is_code_4(tmp_path: Path) -> None:
    with serving(tmp_path) as address:
        pass
    done = run("ask", "--server", address, "--mode", "only_on_server", "x", stdin=subprocess.DEVNULL)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_passed_deadline_is_code_5_and_shows_what_came(slow_server: list[str]) -> None:
    done = run("ask", *slow_server, "--timeout", "1", " ".join(["word"] * 500), stdin=subprocess.DEVNULL)
    assert done.returncode == 5, done.stderr
    assert done.stdout.startswith("word")


def test_a_private_question_without_a_device_is_refused_before_anything_is_sent(server: list[str]) -> None:
    done = run("ask", *server, "--private", "x", stdin=subprocess.DEVNULL)
    assert done.returncode == 7
    assert done.stdout == ""


def test_a_reader_that_went_away_ends_the_program_quietly(server: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [*CRAYON, "ask", *server, "one two"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE, timeout=PATIENCE
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_ctrl_c_ends_ask_with_code_130(slow_server: list[str]) -> None:
    command = [*CRAYON, "ask", *slow_server, " ".join(["word"] * 500)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"word"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, b"interrupted\n")


def test_an_ascii_locale_does_not_break_an_answer(server: list[str]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run("ask", *server, "été", stdin=subprocess.DEVNULL, env=environment)
    assert (done.returncode, done.stdout) == (0, "\\xe9t\\xe9\n")


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        master, slave = pty.openpty()
        self._master = master
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
        # A session of its own, with the slave as its terminal: else Ctrl-C would reach nobody.
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)

    def wait_for(self, text: str) -> None:
        """Read until `text` was shown after what was waited for before."""
        end = time.monotonic() + PATIENCE
        while text not in self.shown:
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} did not appear in {self.shown!r}"
            data = os.read(self._master, 65536).decode()
            # prompt-toolkit asks where the cursor is and waits a moment for the answer.
            if "\x1b[6n" in data:
                os.write(self._master, b"\x1b[1;1R")
            self.shown += data
        self.shown = self.shown[self.shown.index(text) + len(text) :]

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def close(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            os.close(self._master)


# prompt-toolkit turns bracketed paste on while it reads.
PROMPT_BEGINS, PROMPT_ENDS = "\x1b[?2004h", "\x1b[?2004l"
_ON_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from crayon.cli import main
main()
"""


def test_chat_on_a_terminal(slow_server: list[str]) -> None:
    terminal = Terminal("chat", *slow_server)
    try:
        terminal.wait_for(PROMPT_BEGINS)
        terminal.type("alpha beta\r")
        terminal.wait_for("server: as the mode says | first token")
        terminal.wait_for(PROMPT_BEGINS)
        terminal.type("gamma " * 200 + "\r")
        terminal.wait_for(PROMPT_ENDS)
        terminal.wait_for("gamma gamma")
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for(PROMPT_BEGINS)
        terminal.type("wrong\x03/stats\r")
        terminal.wait_for("1: 0 device, 1 server")
        terminal.wait_for(PROMPT_BEGINS)
        terminal.type("\x04")
        assert terminal.close() == 0
    finally:
        terminal.process.kill()


def test_doctor_as_a_process_reports_the_server(server: list[str]) -> None:
    done = run("doctor", "--json", *server[:2])
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["server"]["status"] == "ok"
    assert "echo" in findings["server"]["detail"]
    assert done.returncode == (any(finding["status"] == "fail" for finding in findings.values()))
