"""The client process's side: many answers read at once, on one channel."""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass, field

from crayon.client.events import EventClient
from crayon.engine import Delta
from crayon.errors import ServerError
from crayon.lab.bench.wire.engines import ages_ms, wanted

PATIENCE_S = 600.0


@dataclass(slots=True)
class Load:
    """What was read. `ages` are milliseconds from a token's push to its arrival, of stamped tokens only."""

    seconds: float = 0.0
    tokens: int = 0
    messages: int = 0
    cpu_seconds: float = 0.0
    ages: list[float] = field(default_factory=list)


def read(address: str, streams: int, tokens: int, words: str, *, stamped: bool = False) -> Load:
    """Ask for `streams` answers of `tokens` tokens at once, and read them.

    Raises:
        ServerError: an answer had another number of tokens.
        CrayonError: what the server says.
    """
    return asyncio.run(_read(address, streams, tokens, words, stamped=stamped))


async def _read(address: str, streams: int, tokens: int, words: str, *, stamped: bool) -> Load:
    load = Load()
    async with EventClient(address, timeout=PATIENCE_S) as client:

        async def one(number: int) -> None:
            written = 0
            async for event in client.generate(wanted(words, number, tokens)):
                if isinstance(event, Delta):
                    written += event.tokens
                    load.messages += 1
                    if stamped:
                        load.ages += ages_ms(event.text)
            if written != tokens:
                raise ServerError(f"an answer has {written} tokens instead of {tokens}")
            load.tokens += written

        before, begin = _cpu(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(streams):
                group.create_task(one(number))
        load.seconds, load.cpu_seconds = time.monotonic() - begin, _cpu() - before
    return load


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
