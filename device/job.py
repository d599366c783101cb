"""A unit of the device's work: done in small steps on one thread, so that several make progress together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crayon.errors import CancelledError, CrayonError, DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.engine import Stream
    from crayon.stream import Promise


@dataclass(slots=True, eq=False)
class Job:
    """`steps` does the work and gives way between two steps; `reply` is where the result or the failure goes."""

    reply: Stream | Promise[Any]
    deadline: float | None
    steps: Iterator[None] | None = None
    partial: str = ""
    submitted: float = field(default_factory=time.monotonic)

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
        return self.reply.cancelled

    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the result; ignored after the end."""
        self.reply.fail(error)
