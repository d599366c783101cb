"""A result in one piece: kept once, or cancelled before."""

from __future__ import annotations

from concurrent.futures import CancelledError, wait

import pytest

from crayon.errors import EngineError
from crayon.stream import Promise


def test_only_the_first_end_counts() -> None:
    promise = Promise[int]()
    assert not promise.future.done()
    promise.succeed(1)
    promise.succeed(2)
    promise.fail(EngineError("late"))
    assert promise.future.result(0) == 1
    failed = Promise[int]()
    failed.fail(EngineError("broke"))
    failed.succeed(1)
    with pytest.raises(EngineError, match="broke"):
        failed.future.result(0)


def test_who_cancels_is_heard_and_gets_nothing() -> None:
    heard: list[str] = []
    promise = Promise[int](on_cancel=lambda: heard.append("cancelled"))
    assert not promise.cancelled
    assert promise.future.cancel()
    assert promise.cancelled
    promise.succeed(1)
    promise.fail(EngineError("late"))
    with pytest.raises(CancelledError):
        promise.future.result(0)
    assert wait([promise.future], timeout=5).done == {promise.future}, "who waits for several is told too"
    assert heard == ["cancelled"]


def test_a_kept_one_can_no_longer_be_cancelled() -> None:
    heard: list[str] = []
    promise = Promise[int](on_cancel=lambda: heard.append("cancelled"))
    promise.succeed(1)
    assert not promise.future.cancel()
    assert heard == []


def test_a_future_tells_what_was_done_for_it_after_it_was_cancelled_too() -> None:
    done = [0]
    promise = Promise[int](used=lambda: done[0])
    assert Promise[int]().future.used() == 0
    done[0] = 7
    promise.future.cancel()
    assert promise.future.used() == 7
