"""A result in one piece on its way from an engine's thread to one caller, who holds its future."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.errors import CrayonError

Result = TypeVar("Result")


class Work(Future[Result]):
    """A future that tells what was done for it, from any thread."""

    used: Callable[[], int] = staticmethod(lambda: 0)
    """Tokens that were computed for it so far, whether its result is wanted or not."""


class Promise(Generic[Result]):
    """What `Stream` is to an answer: the engine's side of a future. One thread of the engine's keeps it.

    Args:
        on_cancel: called if the caller cancels the future before it is kept; from any thread.
        used: tells the tokens that were computed for it so far; from any thread.
    """

    def __init__(self, on_cancel: Callable[[], None] | None = None, used: Callable[[], int] | None = None) -> None:
        self.future: Work[Result] = Work()
        if used is not None:
            self.future.used = used
        self._closed = False
        self._on_cancel = on_cancel
        if on_cancel is not None:
            self.future.add_done_callback(self._done)

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants the result. From any thread."""
        return self.future.cancelled()

    def succeed(self, result: Result) -> None:
        """Hand over the result. Ignored after the end."""
        if self._begin_end():
            self.future.set_result(result)

    def fail(self, error: CrayonError) -> None:
        """Hand over an error in its place. Ignored after the end."""
        if self._begin_end():
            self.future.set_exception(error)

    def _done(self, future: Future[Result]) -> None:
        on_cancel, self._on_cancel = self._on_cancel, None  # who keeps a result does not keep its engine
        if on_cancel is not None and future.cancelled():
            on_cancel()

    def _begin_end(self) -> bool:
        """Return whether the caller still waits; from then on it is too late to cancel."""
        if self._closed:
            return False
        self._closed = True
        # For a cancelled future this tells concurrent.futures.wait, which would go on waiting for it.
        return self.future.set_running_or_notify_cancel()
