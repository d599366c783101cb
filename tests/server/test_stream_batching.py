"""Streams are written in batches: one wake-up for all, and a pause in proportion to what the last flush cost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from crayon.completion import FinishReason, Timings, Usage
from crayon.errors import OverloadedError
from crayon.server.stream_batching import BUSY_SHARE, LONGEST_PAUSE_S, MAX_JOINED, WriteBatcher, coalesced
from crayon.stream import Delta, Finished, Started, Stream, TokenSignal

if TYPE_CHECKING:
    from crayon.stream import Event

FINISHED = Finished(FinishReason.STOP, Usage(1, 1), Timings())


async def read(stream: Stream, batcher: WriteBatcher) -> list[list[Event]]:
    return [events async for events in coalesced(stream, batcher)]


async def test_the_tokens_of_one_step_cross_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher, streams = WriteBatcher(), [Stream() for _ in range(32)]
    readers = [asyncio.create_task(read(stream, batcher)) for stream in streams]
    await asyncio.sleep(0)
    loop, calls = asyncio.get_running_loop(), 0
    real = loop.call_soon_threadsafe

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return real(*arguments)  # type: ignore[arg-type] # given on as they are

    def step() -> None:
        for stream in streams:
            stream.push(Started("r", "m"))
            stream.push(Delta("a"))
            stream.push(Delta("b", (TokenSignal(-1.0, 1.0, 0.5),), 2))
            stream.push(FINISHED)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "call_soon_threadsafe", counted)
        step()
        assert calls == 1
    expected = [[Started("r", "m"), Delta("ab", (TokenSignal(-1.0, 1.0, 0.5),), 3), FINISHED]]
    assert await asyncio.gather(*readers) == [expected] * 32
    assert batcher.count == 1


async def test_started_waits_for_what_follows_and_a_failure_for_what_came_before() -> None:
    batcher, stream = WriteBatcher(), Stream()
    stream.push(Started("r", "m"))
    events = coalesced(stream, batcher)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(3 * LONGEST_PAUSE_S)
    assert not waiting.done()
    stream.push(Delta("x"))
    stream.fail(OverloadedError("squeezed out"))
    assert await waiting == [Started("r", "m"), Delta("x")]
    with pytest.raises(OverloadedError):
        await anext(events)


async def test_nothing_is_yielded_before_a_failure_without_tokens() -> None:
    batcher, stream = WriteBatcher(), Stream()
    stream.push(Started("r", "m"))
    stream.fail(OverloadedError("full"))
    with pytest.raises(OverloadedError):
        await anext(coalesced(stream, batcher))


async def test_long_queues_come_in_pieces() -> None:
    batcher, stream = WriteBatcher(), Stream()
    for _ in range(2 * MAX_JOINED):
        stream.push(Delta("x"))
    stream.push(FINISHED)
    pieces = await read(stream, batcher)
    assert [event.tokens for piece in pieces for event in piece if isinstance(event, Delta)] == [MAX_JOINED] * 2
    assert pieces[-1][-1] is FINISHED


async def test_what_comes_while_a_message_is_written_waits_for_the_next_round() -> None:
    batcher, stream = WriteBatcher(), Stream()
    stream.push(Delta("a"))
    events = coalesced(stream, batcher)
    assert await anext(events) == [Delta("a")]
    stream.push(Delta("b"))
    stream.push(Delta("c"))
    stream.push(FINISHED)
    assert await anext(events) == [Delta("bc", (), 2), FINISHED]
    assert batcher.count == 2


async def test_within_an_answer_rounds_are_a_frame_apart_but_not_at_its_start_and_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "crayon.server.stream_batching.ALONE_FRAME_S", 1.0
    )  # long, so that a busy machine changes nothing
    batcher, stream = WriteBatcher(used=lambda: 0.0), Stream()
    loop = asyncio.get_running_loop()
    came: list[tuple[float, int]] = []

    async def watch() -> None:
        async for events in coalesced(stream, batcher):
            came.append((loop.time(), sum(event.tokens for event in events if isinstance(event, Delta))))
            arrived.release()

    async def next_one() -> float:
        await arrived.acquire()
        return came[-1][0]

    arrived = asyncio.Semaphore(0)

    reading = asyncio.create_task(watch())
    stream.push(Started("r", "m"))
    await asyncio.sleep(0.01)  # a round comes for it, and has nothing to send
    begun = loop.time()
    stream.push(Delta("a"))
    assert await next_one() - begun < 0.5
    for _ in range(3):
        stream.push(Delta("b"))
        await asyncio.sleep(0)
    assert 0.9 < await next_one() - came[0][0] < 1.5
    stream.push(Delta("c"))
    await asyncio.sleep(0.01)
    assert len(came) == 2
    stream.push(FINISHED)  # it does not wait for the frame that the token before it waits for
    await reading
    assert came[2][0] - came[1][0] < 0.5
    assert [tokens for _, tokens in came] == [1, 3, 1]


@pytest.mark.parametrize(("several", "frame"), [(False, 1.0), (True, 0.0)])
async def test_an_answer_alone_has_longer_frames(several: bool, frame: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crayon.server.stream_batching.ALONE_FRAME_S", 1.0)
    monkeypatch.setattr("crayon.server.stream_batching.FRAME_S", 0.0)
    batcher, streams = WriteBatcher(used=lambda: 0.0), [Stream() for _ in range(1 + several)]
    answers = [coalesced(stream, batcher) for stream in streams]
    loop, came = asyncio.get_running_loop(), []
    for _ in range(2):
        for stream in streams:
            stream.push(Delta("a"))
        await asyncio.gather(*(anext(answer) for answer in answers))
        came.append(loop.time())
    assert frame - 0.1 < came[1] - came[0] < frame + 0.5


async def test_the_pause_is_in_proportion_to_the_cost_and_has_an_end() -> None:
    used = [0.0]
    batcher = WriteBatcher(clock=lambda: 100.0, used=lambda: used[0])
    assert batcher.pause() == 0.0
    used[0] = 0.002
    assert batcher.pause() == pytest.approx(0.002 / BUSY_SHARE)
    used[0] = 1.0
    assert batcher.pause() == LONGEST_PAUSE_S


def test_a_loop_that_has_ended_does_not_reach_the_engine() -> None:
    stream = Stream()

    async def begin() -> None:
        WriteBatcher().reader(stream)

    asyncio.run(begin())
    stream.push(Delta("x"))
    assert stream.take(9) == ([Delta("x")], None)
