"""How far customising has come, on one line of a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STEPS = {"check": "checking", "refine": "searching"}
_ANEW = "\r\x1b[K"


@contextmanager
def check_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a callback for `Crayon.customize` that keeps a line up to date, and leaves none behind however it ends."""
    shown = False

    def show(what: str, done: int, total: int) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            shown = done < total
            _write(f"{_ANEW}{_STEPS.get(what, what)} {done}/{total}" if shown else _ANEW)

    try:
        yield show
    finally:
        if shown:
            _write(_ANEW)


def _write(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
