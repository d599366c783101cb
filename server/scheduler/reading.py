"""Which prompts are read first within a step: clients share every step, and long work does not stand before short.

Of all that is read (prompts, continuations, texts to embed), a step has room for some tokens and some rows of logits.
Each client has a counter of the tokens that were read for it. A step takes the clients in the order of their counters,
the least first, and the requests of one client in order of admission; every second step, those of a client that have
no more to read in all than one step holds come before those that have.

Who begins to read after a pause counts as much as the least of those that read, and nobody is owed more than `OWED`
tokens, so nobody saves up.

Bound: while two clients both read, in groups that run, who was read less so far goes first, and the other gets what
that one leaves or cannot use. So a request of r tokens of a client that has nothing else is read once each other client
was read r tokens more and one step, however much they want.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from crayon.server.steps.request import Request


OWED = 4096
"""Tokens that a client may be behind: one that cannot use a whole step has no claim to make up for it."""


@dataclass(slots=True)
class Readers:
    """Tokens read so far, by client."""

    counters: dict[str, int] = field(default_factory=dict)
    """Of those that read now, and of those that were read more than they: it is not forgotten by a pause."""

    def copy(self) -> Readers:
        """Return a copy to try things out on."""
        return Readers(self.counters.copy())

    def begin(self, client: str, reading: Iterable[str]) -> None:
        """Count a client in whose request is admitted; `reading` are the other clients that read now."""
        floor = min((self.counters.get(other, 0) for other in reading if other != client), default=0)
        self.counters[client] = max(self.counters.get(client, 0), floor)

    def charge(self, tokens: Mapping[str, int]) -> None:
        """Count the tokens that a step has read for each client."""
        counters = self.counters
        for client, count in tokens.items():
            counters[client] = counters.get(client, 0) + count
        if len(counters) > 1:
            floor = max(counters.values()) - OWED
            for client, counter in counters.items():
                if counter < floor:
                    counters[client] = floor

    def forgive(self, reading: Iterable[str]) -> None:
        """Forget what no client that reads now could still be owed."""
        here = {*reading}
        if not here:
            self.counters.clear()
            return
        floor = min(self.counters.get(client, 0) for client in here)
        for client in [client for client, counter in self.counters.items() if counter <= floor and client not in here]:
            del self.counters[client]

    def in_turn(self, reading: list[Request], step: int, most: int) -> list[Request]:
        """Return requests, given in order of admission, as a step reads them.

        Args:
            reading: those that read.
            step: the number of the step.
            most: tokens that a step holds; what has more to read in all is long.
        """
        if len(reading) < 2:
            return reading
        short_first = step % 2 == 1
        counters = self.counters

        def key(request: Request) -> tuple[int, bool]:
            return counters.get(request.client, 0), short_first and request.to_read > most

        return sorted(reading, key=key)
