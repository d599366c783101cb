"""Waiting for a future with a deadline from asyncio, with our errors; from a thread: `crayon.engine.wait_for`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from crayon.errors import CancelledError, CrayonError, DeadlineExceededError

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")


async def wait_for_async(future: Future[T], until: float | None) -> T:
    """Wait for a future until a `time.monotonic()`; it is cancelled if the wait ends before it does.

    Raises:
        DeadlineExceededError: `until` passed.
        CancelledError: somebody cancelled the future; cancelling the waiting task is asyncio's own error.
    """
    try:
        async with asyncio.timeout(None if until is None else until - time.monotonic()):
            return await asyncio.wrap_future(future)
    except CrayonError:
        raise
    except asyncio.CancelledError:
        if future.cancelled() and not _being_cancelled():
            raise CancelledError("the call was cancelled") from None
        raise
    except TimeoutError:
        raise DeadlineExceededError from None
    finally:
        future.cancel()


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
