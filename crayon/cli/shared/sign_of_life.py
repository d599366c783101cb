"""A line at a terminal that says what is waited for, and for how long; gone when the answer begins."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST_S = 0.7  # an answer that is there by then needs no sign
_EVERY_S = 0.5

_showing: list[SignOfLife] = []


class SignOfLife:
    """Writes to standard error, and only where that is a terminal.

    Args:
        said: what is waited for, asked again each time.
    """

    def __init__(self, said: Callable[[], str]) -> None:
        self._said = said
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._shown = False
        self._begin = time.monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, where there is a terminal."""
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._thread = threading.Thread(target=self._run, name="crayon-sign", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Take the line away. Safe to call twice."""
        self._over.set()
        with self._lock:
            if self._shown:
                self._shown = False
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()

    def _run(self) -> None:
        wait = FIRST_S
        while not self._over.wait(wait):
            wait = _EVERY_S
            with self._lock:
                if self._over.is_set():
                    return
                self._shown = True
                sys.stderr.write(f"\r\x1b[K\x1b[2m{self._said()} ({time.monotonic() - self._begin:.0f} s)\x1b[0m")
                sys.stderr.flush()


@contextmanager
def sign_of_life(said: Callable[[], str]) -> Iterator[SignOfLife]:
    """Show a sign until `stop`, or the end of the block."""
    sign = SignOfLife(said)
    _showing.append(sign)
    sign.start()
    try:
        yield sign
    finally:
        sign.stop()
        _showing.remove(sign)


def hide_signs() -> None:
    """Take away what is shown, before somebody is asked something."""
    for sign in _showing:
        sign.stop()


def waiting_for(client: object) -> str:
    """Return what a client's answer waits for: its model, or the first word."""
    core = getattr(client, "_core", None)
    engines = getattr(core, "engines", None)
    if engines is not None and engines.opening_device:
        return "loading the device's model"
    return "waiting for the first word"
