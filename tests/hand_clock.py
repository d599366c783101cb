"""A clock that a test turns by hand."""

from __future__ import annotations


class HandClock:
    """Seconds since some moment: they pass where a test adds to `now`."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
