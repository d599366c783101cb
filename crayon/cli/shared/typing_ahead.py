"""The terminal while an answer is written: what is typed meanwhile is not shown in it, and kept for the prompt."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

try:
    import termios
except ImportError:  # Windows: its console keeps to its own ways
    HERE = False
else:
    HERE = True

if TYPE_CHECKING:
    from collections.abc import Iterator

_INPUT, _LOCAL = 0, 3  # places of the flags in what tcgetattr returns


@contextmanager
def kept_for_the_prompt() -> Iterator[None]:
    """Have keys neither shown nor made into lines while the block runs; Ctrl-C still interrupts.

    Enter stays the key that it is: a terminal that makes lines turns it into a line feed, which the prompt reads as
    "one more line", and two questions become one.
    """
    with _changed(quiet=True):
        yield


@contextmanager
def asked_now() -> Iterator[None]:
    """Read a line as terminals usually let one while the block runs; what was typed before is no answer to it."""
    with _changed(quiet=False):
        if HERE:
            with suppress(termios.error, OSError, ValueError):
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
        yield


@contextmanager
def _changed(*, quiet: bool) -> Iterator[None]:
    before = _attributes()
    if before is None:
        yield
        return
    now = [*before]
    if quiet:
        now[_INPUT] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)
        now[_LOCAL] &= ~(termios.ECHO | termios.ICANON)
    else:
        now[_INPUT] |= termios.ICRNL
        now[_LOCAL] |= termios.ECHO | termios.ICANON
    _set(now)
    try:
        yield
    finally:
        _set(before)


def _attributes() -> list[Any] | None:
    if not HERE:
        return None
    try:
        return termios.tcgetattr(sys.stdin.fileno()) if sys.stdin.isatty() else None
    except (termios.error, OSError, ValueError):
        return None


def _set(attributes: list[Any]) -> None:
    with suppress(termios.error, OSError, ValueError):
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, attributes)
