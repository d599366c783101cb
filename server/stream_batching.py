"""Batched writes: the event loop writes all streams that have something in one flush, not each token by itself.

An engine's step brings a token for each of many streams. Waking the event loop for each of them, and writing each token
in a message of its own, is what limits a Python server: a message costs some 100 microseconds, a token's text none.
So the first token schedules a flush, the flush wakes the readers of all streams that have something, and the pause
before the next flush is in proportion to what the last one cost: a server with one stream writes each token at once, a
busy one writes fewer messages with more in each.

One answer alone can be faster than any eye: at a hundred tokens a second, a message for each would take a tenth of the
machine from the engine. So within an answer flushes are at least a frame apart; its first token, its end and a failure
go out at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from crayon.stream import Delta, Started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from crayon.stream import Event, Stream

# The share of its time that the loop may spend with streams: what it leaves is for requests, and for the engine, whose
# thread needs the same interpreter.
BUSY_SHARE = 0.25
# The longest pause that the cost of the last flush can ask for.
LONGEST_PAUSE_S = 0.025
# Between two flushes that only bring more of answers under way: 40 a second is text that flows, and 20 still is. An
# answer alone has the fewer, since what a message costs is taken from its own next tokens.
FRAME_S, ALONE_FRAME_S = 0.025, 0.05
# Where several streams are written at a time, their engine's thread is about to bring the rest of its step, and to
# begin the next one. It is left alone for so long: the loop would only take the interpreter from it.
LINGER_S = 0.002


class WriteBatcher:
    """Wakes the readers of streams, all at once. Made in the event loop that reads.

    Args:
        clock: seconds, monotonic.
        used: seconds of CPU that the loop's thread has used.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._used = used
        self._notified: deque[Reader] = deque()
        self._scheduled = False
        """Whether a flush is scheduled; an engine that finds it so has nothing to do."""
        self._urgent = False
        """Whether the scheduled flush waits for no frame to pass."""
        self._timer: asyncio.TimerHandle | None = None
        self._last = -LONGEST_PAUSE_S
        self._last_used = used()
        self._woken = 0
        self.count = 0
        """Flushes so far."""

    def reader(self, stream: Stream) -> Reader:
        """Return what waits for events of this stream."""
        return Reader(self, stream)

    def notify(self, reader: Reader, *, urgent: bool = False) -> None:
        """Let the next flush wake this reader; it waits for a frame to pass unless it is `urgent`. From any thread."""
        # First append, then look: a flush takes back `_scheduled` before it takes the readers.
        self._notified.append(reader)
        if not self._scheduled or (urgent and not self._urgent):
            self._scheduled = True
            self._urgent |= urgent
            with suppress(RuntimeError):  # the loop has been closed, maybe this very moment
                self._loop.call_soon_threadsafe(self._schedule)

    def _schedule(self) -> None:
        if not self._scheduled:
            return  # a flush has just been: it took this reader too
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        frame = FRAME_S if self._woken > 1 else ALONE_FRAME_S
        pause = self.pause() if self._urgent else max(self.pause(), frame)
        due = max(self._last + pause, now + LINGER_S if self._woken > 1 else now)
        if now < due:
            self._timer = self._loop.call_later(due - now, self._flush)
        else:
            self._flush()

    def pause(self) -> float:
        """Return the seconds from the start of the last flush to that of the next."""
        return min((self._used() - self._last_used) / BUSY_SHARE, LONGEST_PAUSE_S)

    def _flush(self) -> None:
        self._timer = None
        self._scheduled = self._urgent = False
        self._last, self._last_used = self._clock(), self._used()
        self.count += 1
        self._woken = len(self._notified)
        while self._notified:
            self._notified.popleft().wake()


class Reader:
    """Waits for the events of one stream."""

    def __init__(self, batcher: WriteBatcher, stream: Stream) -> None:
        self._batcher = batcher
        self._notified = False
        self._future: asyncio.Future[None] | None = None
        self._awake = False
        self._stream = stream
        self.flowing = False
        """Whether its first token is on its way, so that more of it may wait for a frame; the reader says so."""
        stream.watch(self._notify)

    def _notify(self) -> None:
        urgent = not self.flowing or self._stream.closed
        if not self._notified or urgent:
            self._notified = True
            self._batcher.notify(self, urgent=urgent)

    def wake(self) -> None:
        """Let the reader go on; in the loop."""
        self._awake = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Wait for a flush after the next event; what is there afterwards is to be taken at once."""
        if not self._awake:
            self._future = asyncio.get_running_loop().create_future()
            await self._future
        self._future = None
        # Before anything is taken: an event that comes meanwhile notifies again.
        self._awake = self._notified = False


# A joined Delta stays far below any message limit, however long the reader slept.
MAX_JOINED = 256


async def coalesced(stream: Stream, batcher: WriteBatcher) -> AsyncIterator[list[Event]]:
    """Yield the events that are queued, neighbouring Deltas joined; wait only when there is none.

    `Started` is never yielded alone: it waits for the event after it, so that nothing is sent before the first token
    and a client may still retry.

    Raises:
        CrayonError: the generation failed; what came before it was yielded first.
    """
    reader = batcher.reader(stream)
    held: list[Event] = []
    while not stream.over:
        await reader.wait()
        while True:
            taken, failure = stream.take(MAX_JOINED)
            held += taken
            if held and not (len(held) == 1 and isinstance(held[0], Started)):
                reader.flowing = True
                yield joined(held)
                held = []
            if failure is not None:
                raise failure
            if len(taken) < MAX_JOINED:
                break  # what comes from now on has notified, and waits for the next flush


def joined(events: list[Event]) -> list[Event]:
    """Return the events with neighbouring Deltas made one."""
    found: list[Event] = []
    deltas: list[Delta] = []
    for event in events:
        if isinstance(event, Delta):
            deltas.append(event)
            continue
        found += _join(deltas)
        deltas = []
        found.append(event)
    return found + _join(deltas)


def _join(deltas: list[Delta]) -> list[Event]:
    if len(deltas) < 2:
        return list(deltas)
    text = "".join(delta.text for delta in deltas)
    signals = tuple(signal for delta in deltas for signal in delta.signals)
    reasoning = "".join(delta.reasoning for delta in deltas)  # all of it stands before the text
    calls = tuple(call for delta in deltas for call in delta.calls)
    logprobs = tuple(one for delta in deltas for one in delta.logprobs)
    return [Delta(text, signals, sum(delta.tokens for delta in deltas), reasoning, calls, logprobs)]
