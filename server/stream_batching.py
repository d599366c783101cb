"""When streams are written: in rounds, so that many tokens cross from the engine's thread in one go.

An engine's step brings a token for each of many streams. Waking the event loop for each of them, and writing each token
in a message of its own, is what limits a Python server: a message costs some 100 microseconds, a token's text none.
So the first token rings, the loop comes once for all streams that have something, and between two rounds it leaves time
in the proportion of what the last one cost: a server with one stream writes each token at once, a busy one writes fewer
messages with more in each.

One answer alone can be faster than any eye: at a hundred tokens a second, a message for each would take a tenth of the
machine from the engine. So within an answer rounds are at least a frame apart; its first token, its end and a failure
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
# The most that a token waits for the next round for what each of them costs.
LONGEST_PAUSE_S = 0.025
# Between two rounds that only bring more of answers under way: 40 a second is text that flows, and 20 still is. An
# answer alone has the fewer, since what a message costs is taken from its own next tokens.
FRAME_S, ALONE_FRAME_S = 0.025, 0.05
# Where several streams are written at a time, their engine's thread is about to bring the rest of its step, and to
# begin the next one. It is left alone for so long: the loop would only take the interpreter from it.
LINGER_S = 0.002


class Rounds:
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
        self._rung: deque[Reader] = deque()
        self._coming = False
        """Whether a round is on its way; an engine that finds it so has nothing to do."""
        self._hurried = False
        """Whether the round that is on its way waits for no frame to pass."""
        self._timer: asyncio.TimerHandle | None = None
        self._last = -LONGEST_PAUSE_S
        self._last_used = used()
        self._woken = 0
        self.count = 0
        """Rounds so far."""

    def reader(self, stream: Stream) -> Reader:
        """Return what waits for events of this stream."""
        return Reader(self, stream)

    def ring(self, reader: Reader, *, urgent: bool = False) -> None:
        """Let the next round wake this reader; it waits for a frame to pass unless it is `urgent`. From any thread."""
        # First the note, then the look: a round takes back `_coming` before it takes the notes.
        self._rung.append(reader)
        if not self._coming or (urgent and not self._hurried):
            self._coming = True
            self._hurried |= urgent
            with suppress(RuntimeError):  # the loop has been closed, maybe this very moment
                self._loop.call_soon_threadsafe(self._come)

    def _come(self) -> None:
        if not self._coming:
            return  # a round has just been: it took this note too
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        frame = FRAME_S if self._woken > 1 else ALONE_FRAME_S
        pause = self.pause() if self._hurried else max(self.pause(), frame)
        due = max(self._last + pause, now + LINGER_S if self._woken > 1 else now)
        if now < due:
            self._timer = self._loop.call_later(due - now, self._go)
        else:
            self._go()

    def pause(self) -> float:
        """Return the seconds from the start of the last round to that of the next."""
        return min((self._used() - self._last_used) / BUSY_SHARE, LONGEST_PAUSE_S)

    def _go(self) -> None:
        self._timer = None
        self._coming = self._hurried = False
        self._last, self._last_used = self._clock(), self._used()
        self.count += 1
        self._woken = len(self._rung)
        while self._rung:
            self._rung.popleft().wake()


class Reader:
    """Waits for the events of one stream."""

    def __init__(self, rounds: Rounds, stream: Stream) -> None:
        self._rounds = rounds
        self._rung = False
        self._future: asyncio.Future[None] | None = None
        self._awake = False
        self._stream = stream
        self.flowing = False
        """Whether its first token is on its way, so that more of it may wait for a frame; the reader says so."""
        stream.watch(self._ring)

    def _ring(self) -> None:
        urgent = not self.flowing or self._stream.closed
        if not self._rung or urgent:
            self._rung = True
            self._rounds.ring(self, urgent=urgent)

    def wake(self) -> None:
        """Let the reader go on; in the loop."""
        self._awake = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Wait for a round after the next event; what is there afterwards is to be taken at once."""
        if not self._awake:
            self._future = asyncio.get_running_loop().create_future()
            await self._future
        self._future = None
        # Before anything is taken: an event that comes meanwhile rings again.
        self._awake = self._rung = False


# A joined Delta stays far below any message limit, however long the reader slept.
MAX_JOINED = 256


async def coalesced(stream: Stream, rounds: Rounds) -> AsyncIterator[list[Event]]:
    """Yield the events that are queued, neighbouring Deltas joined; wait only when there is none.

    `Started` is never yielded alone: it waits for the event after it, so that nothing is sent before the first token
    and a client may still retry.

    Raises:
        CrayonError: the generation failed; what came before it was yielded first.
    """
    reader = rounds.reader(stream)
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
                break  # what comes from now on has rung, and waits for the next round


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
    return [Delta(text, signals, sum(delta.tokens for delta in deltas))]
