"""What rendering a chat template may cost: time of the processor, and memory at any one time."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

SECONDS = 2.0
"""Of the processor, in this thread: a busy neighbour does not count."""
CHARACTERS = 16_000_000
"""Of one text that a template makes: four of the largest requests."""
NUMBER = 1_000_000
"""Largest number that a function or filter is given: widths and counts."""
_CODE = "<template>"  # how Jinja names what it compiles
_LINES = 256  # between two looks at the clock


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Let what is rendered within this block run for `SECONDS`, whatever it loops over.

    Raises:
        SecurityError: it runs for longer.
    """
    end, lines = time.thread_time() + SECONDS, 0

    def line(_: FrameType, __: str, ___: Any) -> Any:
        nonlocal lines
        lines += 1
        if lines % _LINES == 0 and time.thread_time() > end:
            raise SecurityError(f"it runs for more than {SECONDS:g} s")
        return line

    def call(frame: FrameType, _: str, __: Any) -> Any:
        return line if frame.f_code.co_filename == _CODE else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


def sized(value: Any) -> Any:
    """Return a value, if it is not too long.

    Raises:
        SecurityError: it is.
    """
    if isinstance(value, str | list | tuple | dict) and len(value) > CHARACTERS:
        raise SecurityError(f"it makes a text of more than {CHARACTERS} characters")
    return value


def joined(parts: Iterable[object]) -> str:
    """Return texts in one, as `~` writes them, and as what a template writes is put together.

    Raises:
        SecurityError: it would be too long.
    """
    texts: list[str] = []
    length = 0
    for part in parts:
        texts.append(str(part))
        length += len(texts[-1])
        _fits(length)
    return "".join(texts)


def check_call(function: object, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Refuse a call that could make far more than it is given.

    Raises:
        SecurityError: a number is too large, or what is replaced or joined becomes too long.
    """
    for value in (*args, *named.values()):
        if isinstance(value, int | float) and abs(value) > NUMBER:
            raise SecurityError(f"a number of more than {NUMBER}")
    name = getattr(function, "__name__", "").removeprefix("do_")
    owner = getattr(function, "__self__", None)
    if isinstance(owner, str):
        args = (owner, *args)
    texts = [value for value in (*args, *named.values()) if isinstance(value, str)]
    widths = [abs(value) for value in (*args, *named.values()) if isinstance(value, int)]
    if name in {"replace", "translate"} and len(texts) > 1:
        _fits(len(texts[0]) + (len(texts[0]) + 1) * max(map(len, texts[1:])))
    if name in {"indent", "expandtabs"} and texts:
        gaps = texts[0].count("\n") + texts[0].count("\t") + 1
        _fits(len(texts[0]) + gaps * max(8, *widths, *map(len, texts[1:])))
    if name in {"join", "sum"} and args:
        rows = [value for value in (*args, *named.values()) if isinstance(value, list | tuple)]
        _fits(
            sum(len(str(item)) for row in rows for item in row) + sum(map(len, texts)) * max(map(len, rows), default=0)
        )
    if name in {"format", "format_map"} and texts:
        # A field's width is a number of its own text: of those there is no need.
        if any(run.isdigit() and int(run[:9]) > NUMBER // 1000 for run in _words(texts[0])):
            raise SecurityError("a width of more than a thousand")
        _fits(len(texts[0]) * max(1, sum(map(len, texts[1:]))))


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that is checked before and after; what Jinja has written on it stays there."""

    def run(*args: Any, **named: Any) -> Any:
        check_call(function, args, named)
        return sized(function(*args, **named))

    run.__dict__.update(getattr(function, "__dict__", {}))
    run.__name__ = getattr(function, "__name__", "filter")
    return run


def _words(text: str) -> list[str]:
    return "".join(char if char.isdigit() else " " for char in text).split()


def _fits(characters: int) -> None:
    if characters > CHARACTERS:
        raise SecurityError(f"it makes a text of more than {CHARACTERS} characters")
