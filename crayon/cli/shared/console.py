"""Writing to the terminal: answers to standard output, everything else to standard error."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_STYLES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
# What could move the cursor, recolour or retitle a terminal: text of a model or a server is not ours.
_UNSAFE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}

_LOG: ContextVar[logging.Logger | None] = ContextVar("crayon_console_log", default=None)


def colour_wanted(stream: IO[str]) -> bool:
    """Whether `stream` is a terminal that wants colour (NO_COLOR unset or empty, TERM not dumb)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, *styles: str, stream: IO[str] | None = None) -> str:
    """Return `text` in the named styles if the stream (standard error by default) wants colour."""
    if not text or not colour_wanted(sys.stderr if stream is None else stream):
        return text
    return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"


def safe(text: str, stream: IO[str]) -> str:
    """Return `text`, with control characters replaced where `stream` is a terminal."""
    return text.translate(_UNSAFE) if stream.isatty() else text


def answer(text: str, *, end: str = "") -> None:
    """Write a piece of an answer to standard output, at once."""
    sys.stdout.write(safe(text, sys.stdout) + end)
    sys.stdout.flush()


def terminal_width() -> int:
    """Return how many characters a line of the terminal takes."""
    return shutil.get_terminal_size().columns


def message(text: str, *styles: str) -> None:
    """Write a line to standard error."""
    if not _logged(logging.INFO, text):
        _tell(paint(safe(text, sys.stderr), *styles))


def error(text: str) -> None:
    """Write an error line to standard error."""
    _tell(f"{paint('error:', 'bold', 'red')} {safe(text, sys.stderr)}")


def warning(text: str) -> None:
    """Write a warning line to standard error."""
    if not _logged(logging.WARNING, text):
        _tell(f"{paint('warning:', 'yellow')} {safe(text, sys.stderr)}")


def _tell(line: str) -> None:
    # A log on a full disk is no reason to stop serving.
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def forget_unwritten() -> None:
    """Let go of what standard error could not take, which the interpreter would fail over as it ends."""
    try:
        sys.stderr.flush()
    except OSError:
        with suppress(OSError, ValueError):  # not a real file, nothing will complain
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stderr.fileno())
            os.close(null)


@contextmanager
def messages_to(log: logging.Logger) -> Iterator[None]:
    """Send this thread's messages and warnings to a log while the block runs, for who reads a log of one format."""
    token = _LOG.set(log)
    try:
        yield
    finally:
        _LOG.reset(token)


def _logged(level: int, text: str) -> bool:
    log = _LOG.get()
    if log is None:
        return False
    log.log(level, text)
    return True


def tolerate_any_text() -> None:
    """Let both streams take any character: in an ASCII locale it is escaped instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
