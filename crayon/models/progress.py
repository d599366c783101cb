"""How far a pull is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """One report: bytes of the model so far, bytes in all (None while unknown), and what is being done."""

    done_bytes: int
    total_bytes: int | None
    label: str


ProgressCallback: TypeAlias = Callable[[Progress], object]


class Reporter:
    """Passes progress on, never backwards within one label's pull."""

    def __init__(self, callback: ProgressCallback | None, total: int | None) -> None:
        self._callback = callback
        self.total = total
        self._done = 0

    def restart(self) -> None:
        """Count from nothing again: another source begins."""
        self._done = 0

    def report(self, done: int, label: str) -> None:
        """Tell the callback; what it raises ends the pull."""
        if self._callback is None:
            return
        self._done = max(self._done, done if self.total is None else min(done, self.total))
        self._callback(Progress(self._done, self.total, label))
