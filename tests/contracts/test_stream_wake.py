"""An engine's thread survives readers whose event loop ends under it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from crayon.engine import Delta, Stream

if TYPE_CHECKING:
    import pytest


def test_a_loop_that_closes_while_it_is_woken_does_not_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    loop = asyncio.new_event_loop()
    reading = loop.create_task(stream.__anext__())  # type: ignore[arg-type]  # its type is an Awaitable
    loop.run_until_complete(asyncio.sleep(0))
    asked: list[bool] = []

    def closing(*_: Any) -> None:
        asked.append(True)
        raise RuntimeError("Event loop is closed")

    monkeypatch.setattr(loop, "call_soon_threadsafe", closing)
    stream.push(Delta("text"))
    assert asked
    assert stream.get(0.0) == Delta("text")
    reading.cancel()
    loop.run_until_complete(asyncio.gather(reading, return_exceptions=True))
    loop.close()
