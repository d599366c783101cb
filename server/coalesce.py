"""Joining of events that wait while the network is busy, so that a slow reader costs few messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.engine import Delta, Finished, Started
from crayon.errors import CrayonError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crayon.engine import Event, Stream

# A joined Delta stays far below any message limit, however long the reader slept.
MAX_JOINED = 256


async def coalesced(stream: Stream) -> AsyncIterator[list[Event]]:
    """Yield the events that are queued, neighbouring Deltas joined; wait only when there is none.

    `Started` is never yielded alone: it waits for the event after it, so that nothing is sent before the first token
    and a client may still retry.

    Raises:
        CrayonError: the generation failed; what came before it was yielded first.
    """
    held: list[Event] = []
    async for event in stream:
        held.append(event)
        if isinstance(event, Started):
            continue
        failure = _take_queued(stream, held)
        yield _joined(held)
        held = []
        if failure is not None:
            raise failure


def _take_queued(stream: Stream, held: list[Event]) -> CrayonError | None:
    while len(held) < MAX_JOINED and not isinstance(held[-1], Finished):
        try:
            event = stream.get(timeout=0.0)
        except CrayonError as error:
            return error
        except StopIteration:
            return None
        if event is None:
            return None
        held.append(event)
    return None


def _joined(events: list[Event]) -> list[Event]:
    joined: list[Event] = []
    deltas: list[Delta] = []
    for event in events:
        if isinstance(event, Delta):
            deltas.append(event)
            continue
        joined += _join(deltas)
        deltas = []
        joined.append(event)
    return joined + _join(deltas)


def _join(deltas: list[Delta]) -> list[Event]:
    if len(deltas) < 2:
        return list(deltas)
    text = "".join(delta.text for delta in deltas)
    signals = tuple(signal for delta in deltas for signal in delta.signals)
    return [Delta(text, signals, sum(delta.tokens for delta in deltas))]
