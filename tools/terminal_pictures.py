"""Make docs/images/chat.svg and top.svg again: real runs of `crayon chat` and `crayon top` on the default models.

Starts a server of its own on a free port; needs both models (1.2 GB, fetched where absent) and some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from crayon import CancelledError, Crayon

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
CRAYON = (sys.executable, "-m", "crayon")
WIDTH = 100
PATIENCE_S = 300.0
BUSY_S = 15.0
METRICS = "9487"  # not the port that a server of the user may hold
SCOPES = ("--scope", "healthy-habits", "--scope", "nature-basics")
QUESTIONS = (
    "How much water should I drink on a hot day?",
    "If 3 pens cost 4.50 euros, how much do 7 pens cost?",
    "Mail ada@example.org that I am late.",
)
LOAD = tuple(f"Write a story about the number {n}, a river and an old bridge." for n in range(8))


@contextlib.contextmanager
def serving(model: str) -> Iterator[tuple[str, str]]:
    """Run a server; give its address, and that of its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "address", Path(folder) / "log"
        with log.open("w") as said:
            command = [*CRAYON, "serve", "--model", model, "--no-tune", "--port", "0", "--ready-file", str(ready)]
            process = subprocess.Popen([*command, "--metrics-port", METRICS], stderr=said)  # noqa: S603 - our own command
        try:
            until = time.monotonic() + 4 * PATIENCE_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.2)
            yield ready.read_text().strip(), f"127.0.0.1:{METRICS}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class Terminal:
    """A program whose output is a terminal of ours, so that it colours what it says; its input is a pipe."""

    def __init__(self, *arguments: str) -> None:
        self._screen, theirs = pty.openpty()
        environ = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
        command = [*CRAYON, *arguments]
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=environ
        )
        os.close(theirs)

    def tell(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def read(self, ending: bytes | None = None) -> str:
        """Return what is said up to the end of the line that holds `ending`, or up to the end."""
        said = b""
        while ending is None or ending not in said or not said.endswith(b"\n"):
            try:
                piece = os.read(self._screen, 4096)
            except OSError:  # how Linux says that the other end was closed
                break
            if not piece:
                break
            said += piece
        return said.decode().replace("\r\n", "\n")

    def close(self) -> int:
        """End it; return its exit code."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.close()
        code = self._process.wait(PATIENCE_S)
        os.close(self._screen)
        return code


def picture(name: str, title: str, text: str) -> None:
    """Write what a terminal showed as SVG."""
    console = Console(record=True, width=WIDTH, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115 - until the end
    console.print(Text.from_ansi(text.strip("\n")))
    svg = console.export_svg(title=title, unique_id=f"crayon-{name}")
    # Fonts are the reader's own: nothing is fetched for a picture.
    start, end = svg.index("@font-face"), svg.rindex("@font-face")
    end = svg.index("}", end) + 1
    (IMAGES / f"{name}.svg").write_text(svg[:start].rstrip() + svg[end:] + "\n", encoding="utf-8")
    print(f"docs/images/{name}.svg")


def chat(address: str) -> None:
    """Ask the questions one after the other."""
    limits = ("--max-tokens", "40", "--timeout", "600", "--system", "Answer in one or two sentences.")
    terminal = Terminal("chat", "--server", address, *SCOPES, *limits)
    shown = [f"$ crayon chat --server localhost:50051 {' '.join(SCOPES)}\n"]
    for question in QUESTIONS:
        terminal.tell(question)
        shown.append(f"\x1b[1m> {question}\x1b[0m\n{terminal.read(b'tokens/s')}")
    if terminal.close():
        raise SystemExit("crayon chat failed")
    picture("chat", "crayon chat", "\n".join(shown))


def top(address: str, metrics: str) -> None:
    """Look at the server while it is busy."""
    over = threading.Event()

    def keep_asking(client: Crayon, question: str) -> None:
        while not over.is_set():
            with contextlib.suppress(CancelledError), client.stream(question, timeout=PATIENCE_S) as stream:
                for _ in stream:
                    if over.is_set():
                        break

    with Crayon(device=None, server=address, max_tokens=60) as client, ThreadPoolExecutor(len(LOAD)) as pool:
        for question in LOAD:
            pool.submit(keep_asking, client, question)
        time.sleep(BUSY_S)  # so that prompts have been read and answers are being written
        terminal = Terminal("top", metrics, "--once")
        said = terminal.read()
        over.set()
        if terminal.close():
            raise SystemExit(f"crayon top failed:\n{said}")
    picture("top", "crayon top", f"$ crayon top\n{said}")


def main() -> int:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server-model", default="qwen2.5-coder-1.5b-instruct")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with serving(arguments.server_model) as (address, metrics):
        chat(address)
        top(address, metrics)
    return 0


if __name__ == "__main__":
    sys.exit(main())
