"""Standard streams as daemons and job runners leave them: closed, missing or full."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast

from crayon.errors import CrayonError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class OutputError(CrayonError):
    """Standard output is closed, or what it leads to is full."""


class Output:
    """A text stream whose failures are `OutputError`s; that a reader went away stays a BrokenPipeError."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            OutputError: it cannot be written.
        """
        with _told():
            return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts; errors as `write`."""
        with _told():
            self._stream.writelines(lines)

    def flush(self) -> None:
        """Write what is kept; errors as `write`."""
        with _told():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from None
    except ValueError:  # closed by somebody in this process
        raise OutputError("standard output is closed") from None


@contextmanager
def whole_streams() -> Iterator[None]:
    """Have all three streams while the block runs: what is closed reads as empty, and takes errors but no answers.

    A closed descriptor is opened again, or the next file or connection would get its number, and what is written to
    the stream.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    # Reading only: an answer that nobody gets is an error, an error message that nobody gets is none.
    for number, (name, mode, flags) in enumerate(
        (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY))
    ):
        opened = None
        if not _is_open(number):
            opened = os.open(os.devnull, flags)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags) if opened is None else opened
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    sys.stdout = cast("Any", Output(sys.stdout))
    try:
        yield
    finally:
        if before[1] is None:
            discard(sys.stdout)
        sys.stdin, sys.stdout, sys.stderr = before


def discard(stream: IO[str]) -> None:
    """Point a stream at nothing, so that the interpreter's own flush at exit stays quiet."""
    with suppress(OSError, ValueError, AttributeError):  # not a real file, nothing will complain
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
