"""Long texts are read beside the event loop, in turn, and only while somebody wants them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from crayon.errors import DeadlineExceededError, InvalidRequestError, OverloadedError
from crayon.server import tokenize_pool as pool
from crayon.server.tokenize_pool import LONG_CHARACTERS, TokenizePool
from crayon.stream import Stream

PATIENCE = 60.0


class Slow:
    """Stands in for an engine that tokenises until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.stream = Stream()

    def __call__(self) -> Stream:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        return self.stream


async def begun(slow: Slow) -> None:
    assert await asyncio.to_thread(slow.begun.wait, PATIENCE)


async def test_a_long_prompt_does_not_hold_the_loop_and_a_short_one_does_not_wait_for_it() -> None:
    reading, slow = TokenizePool(), Slow()
    long = asyncio.create_task(reading.run(slow, LONG_CHARACTERS, None))
    await begun(slow)
    short = Stream()
    assert await reading.run(lambda: short, LONG_CHARACTERS - 1, None) is short
    assert reading.waiting == 1
    slow.go.set()
    assert await long is slow.stream
    assert reading.waiting == 0


async def test_who_leaves_meanwhile_is_cancelled_when_it_is_read() -> None:
    reading, slow = TokenizePool(), Slow()
    long = asyncio.create_task(reading.run(slow, LONG_CHARACTERS, None))
    await begun(slow)
    second = Slow()
    never = asyncio.create_task(reading.run(second, LONG_CHARACTERS, None))
    await asyncio.sleep(0)
    for task in (long, never):
        task.cancel()
    await asyncio.gather(long, never, return_exceptions=True)
    slow.go.set()
    after = Stream()
    assert await reading.run(lambda: after, LONG_CHARACTERS, None) is after
    assert slow.stream.cancelled
    assert not second.begun.is_set(), "nobody wanted it any more"


async def test_a_deadline_that_passed_is_not_read_for() -> None:
    with pytest.raises(DeadlineExceededError):
        await TokenizePool().run(Stream, LONG_CHARACTERS, time.monotonic() - 1.0)


async def test_what_the_engine_says_is_passed_on() -> None:
    def refuse() -> Stream:
        raise InvalidRequestError("messages", "too long")

    for characters in (1, LONG_CHARACTERS):
        with pytest.raises(InvalidRequestError):
            await TokenizePool().run(refuse, characters, None)


async def test_a_flood_of_long_prompts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MOST_WAITING", 1)
    reading, slow = TokenizePool(), Slow()
    long = asyncio.create_task(reading.run(slow, LONG_CHARACTERS, None))
    await begun(slow)
    with pytest.raises(OverloadedError):
        await reading.run(Stream, LONG_CHARACTERS, None)
    slow.go.set()
    await long


async def test_one_client_that_floods_leaves_others_their_turn_and_room() -> None:
    reading, slow = TokenizePool(), Slow()
    order: list[str] = []

    def start(name: str) -> Stream:
        order.append(name)
        return Stream()

    first = asyncio.create_task(reading.run(slow, LONG_CHARACTERS, None, "busy"))
    await begun(slow)
    flood = [
        asyncio.create_task(reading.run(lambda: start("busy"), pool.MOST_CHARACTERS // 16, None, "busy"))
        for _ in range(40)
    ]
    await asyncio.sleep(0)
    refused = [task for task in flood if task.done()]
    assert len(refused) == 40 - 12, "three quarters of the room are a client's"
    for task in refused:
        with pytest.raises(OverloadedError, match="of this client"):
            task.result()
    quiet = asyncio.create_task(reading.run(lambda: start("quiet"), pool.MOST_CHARACTERS // 16, None, "quiet"))
    await asyncio.sleep(0)
    slow.go.set()
    await asyncio.gather(first, quiet, *(task for task in flood if task not in refused))
    assert order.index("quiet") <= 1
    assert reading.waiting == 0


async def test_who_leaves_before_its_turn_leaves_no_fault_behind() -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    reading, slow = TokenizePool(), Slow()
    first = asyncio.create_task(reading.run(slow, LONG_CHARACTERS, None))
    await begun(slow)
    late = asyncio.create_task(reading.run(Slow(), LONG_CHARACTERS, time.monotonic() - 1.0))
    await asyncio.sleep(0)
    late.cancel()
    slow.go.set()
    await first
    after = Stream()
    assert await reading.run(lambda: after, LONG_CHARACTERS, None) is after
    del late
    gc.collect()
    await asyncio.sleep(0)
    assert not faults
