"""A unit of the device's work: done in small steps on one thread, so that several make progress together."""

from __future__ import annotations

import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crayon.engine import Stream
from crayon.errors import CancelledError, CrayonError, DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True, eq=False)
class Job:
    """`steps` does the work and gives way between two steps; `reply` is where the result or the failure goes."""

    reply: Stream | Future[Any]
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
        return self.reply.cancelled if isinstance(self.reply, Stream) else self.reply.cancelled()

    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the result."""
        if isinstance(self.reply, Stream):
            self.reply.fail(error)
        elif not self.reply.done():
            try:
                self.reply.set_exception(error)
            except InvalidStateError:  # cancelled between the question and the answer
                return
