"""Joining of events that wait for the next round of writing, or while the network is busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.events import Delta, Started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crayon.events import Event
    from crayon.server.rounds import Rounds
    from crayon.stream import Stream

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
