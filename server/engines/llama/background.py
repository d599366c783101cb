"""What the loop has done while it computes: the next step is planned by a thread of its own.

It is the planning that is handed over and not the computing: handing over costs two switches of threads, and there are
steps without a plan (see `WORTH_AHEAD`) but none without computing.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


class Background:
    """A thread that does one thing at a time; used by one other thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "crayon-beside")
        self._thread.submit(int)  # begins it: whoever counts threads later finds none that is new
        self._running: Future[float] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; `join` must follow before the next."""
        self._running = self._thread.submit(_timed, work)

    def join(self) -> float:
        """Wait for what was started, if anything was, and return the seconds it took; raises what it raised."""
        running, self._running = self._running, None
        return 0.0 if running is None else running.result()

    def close(self) -> None:
        """End the thread; what it does is finished first."""
        self._thread.shutdown()


def _timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
