"""A unit of the device's work: done in small steps on one thread, so that several make progress together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crayon.engine import Stream
from crayon.errors import CancelledError, CrayonError, DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future


@dataclass(slots=True, eq=False)
class Job:
    """`steps` does the work and gives way between two steps; `reply` is where the result or the failure goes."""

    reply: Stream | Future[Any]
    deadline: float | None
    steps: Iterator[None] | None = None
    partial: str = ""
    submitted: float = field(default_factory=time.monotonic)
    settled: bool = False

    def interrupted(self) -> CrayonError | None:
        """Return why the job must not go on, if so."""
        if self.cancelled:
            return CancelledError("the caller cancelled")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return DeadlineExceededError("the deadline passed on the device", self.partial)
        return None

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants it."""
        return self.reply.cancelled if isinstance(self.reply, Stream) else self.reply.cancelled()

    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the result; ignored after the end."""
        if isinstance(self.reply, Stream):
            self.reply.fail(error)
        elif self._begin_end(self.reply):
            self.reply.set_exception(error)

    def succeed(self, result: object) -> None:
        """Hand over the result of a job whose reply is a future; ignored after the end."""
        if not isinstance(self.reply, Stream) and self._begin_end(self.reply):
            self.reply.set_result(result)

    def _begin_end(self, future: Future[Any]) -> bool:
        """Return whether the caller still waits; from then on it is too late to cancel."""
        if self.settled:
            return False
        self.settled = True
        # For a cancelled future this tells concurrent.futures.wait, which would go on waiting for it.
        return future.set_running_or_notify_cancel()
