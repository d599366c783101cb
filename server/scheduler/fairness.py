"""Whose turn it is among those that wait: clients share the engine by tokens.

This is the virtual token counter of "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024,
arXiv 2401.00588, algorithm 2). Each client c has a counter of the tokens it was served, with

    c += prompt + branches         when one of its requests is admitted (known beforehand),
    c += 1                         for each token it is written (not known beforehand),
    c  = max(c, min of those that wait)
                                   when it comes to wait (if nobody does: the counter of who left last),

and the client with the least counter is admitted next, its requests in the order of their turn. The lift in the
third line is what keeps an idle client from saving up. One step of priority makes a counter count as
`PRIORITY_TOKENS` less: a head start that is used up once, not a larger share.

Bounds, for requests of one priority:

- Two clients that both wait throughout get tokens that differ by at most `2 * max(L, M)`, L being the largest
  charge of an admission and M the most tokens of running answers, which the cache bounds (theorem 4.4 there).
- A request of a client that owes nothing (its counter is the least) is overtaken by at most one request of each
  other client, however many these have queued: an admission lifts a counter above its own.

A higher priority by p adds `p * PRIORITY_TOKENS` tokens and one request of each such client, and no more.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from crayon.server.steps.request import Request

PRIORITY_TOKENS = 512


def _turn(request: Request) -> tuple[float, int]:
    return request.turn


@dataclass(slots=True)
class Queue:
    """Waiting requests."""

    counters: dict[str, int] = field(default_factory=dict)
    """Tokens served, by client, as far as anybody could still owe them."""
    _waiting: dict[str, list[Request]] = field(default_factory=dict)
    """By client, in order of turn; nobody's list is empty."""
    _last: int = 0
    """Counter of the client that was admitted last."""
    _size: int = 0

    def copy(self) -> Queue:
        """Return a copy to try things out on; the requests are the same."""
        waiting = {client: mine.copy() for client, mine in self._waiting.items()}
        return Queue(self.counters.copy(), waiting, self._last, self._size)

    def add(self, request: Request) -> None:
        """Queue a request."""
        mine = self._waiting.get(request.client)
        if mine is None:
            floor = min((self.counters[client] for client in self._waiting), default=self._last)
            self.counters[request.client] = max(self.counters.get(request.client, floor), floor)
            mine = self._waiting[request.client] = []
        insort(mine, request, key=_turn)
        self._size += 1

    def admit(self, request: Request) -> None:
        """Take a request out and charge its client."""
        self.discard(request)
        self.charge(request.client, request.charge)
        self._last = self.counters[request.client]

    def discard(self, request: Request) -> None:
        """Take a request out."""
        mine = self._waiting[request.client]
        del mine[bisect_left(mine, request.turn, key=_turn)]
        if not mine:
            del self._waiting[request.client]
        self._size -= 1

    def charge(self, client: str, tokens: int) -> None:
        """Count tokens that a client was served."""
        self.counters[client] = self.counters.get(client, 0) + tokens

    def forgive(self, busy: Collection[str]) -> None:
        """Forget what only those who are neither waiting nor `busy` are counted; all of it once nobody is."""
        if not busy and not self._waiting:
            self.counters.clear()
            self._last = 0
            return
        floor = min((self.counters[client] for client in self._waiting), default=self._last)
        for client in [client for client, counter in self.counters.items() if counter <= floor]:
            if client not in self._waiting and client not in busy:
                del self.counters[client]

    def in_turn(self, gone: Collection[str] = ()) -> Iterator[Request]:
        """Yield the requests as they would be admitted one after the other, without those `gone`. Changes nothing."""
        if len(self._waiting) == 1:
            yield from (request for mine in self._waiting.values() for request in mine if request.id not in gone)
            return
        heads = []
        for client, all_mine in self._waiting.items():
            mine = [request for request in all_mine if request.id not in gone] if gone else all_mine
            if mine:
                heads.append((*self._key(self.counters[client], mine[0]), mine, 0, self.counters[client]))
        # Turns are unique, so no comparison gets to the lists.
        heapify(heads)
        while heads:
            _, _, mine, at, counter = heads[0]
            request = mine[at]
            yield request
            counter, at = counter + request.charge, at + 1
            if at < len(mine):
                heapreplace(heads, (*self._key(counter, mine[at]), mine, at, counter))
            else:
                heappop(heads)

    def heads(self, gone: Collection[str] = ()) -> list[Request]:
        """Return the first request of each client, as their turns are now, without those `gone`."""
        found = (next((item for item in mine if item.id not in gone), None) for mine in self._waiting.values())
        return sorted(filter(None, found), key=lambda item: self._key(self.counters[item.client], item))

    @staticmethod
    def _key(counter: int, first: Request) -> tuple[int, tuple[float, int]]:
        return counter - first.priority * PRIORITY_TOKENS, first.turn

    def __iter__(self) -> Iterator[Request]:
        for mine in self._waiting.values():
            yield from mine

    def __len__(self) -> int:
        return self._size
