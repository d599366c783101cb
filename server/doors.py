"""Whose connections are shut: those that flood with calls that are refused or reset, and silent ones when few are left.

gRPC bounds calls of a connection, but neither how fast they come and go nor how many connections a stranger holds.
A connection is told by its peer's address and port, and found among the process's descriptors; shut down, gRPC sees its
end and frees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_REFUSED = 200
"""Calls of one connection within a second that may be refused, or given up by their callers."""
LOOK_S = 1.0
# Of the descriptors of the process, connections may have so many; past the first share the silent ones are shut until
# the second is met.
_FULL, _EASY = 0.6, 0.4
_DESCRIPTORS = Path("/dev/fd")


class Doors:
    """Watches the connections of a server. All in one event loop.

    Args:
        clock: seconds that never run backwards.
        shut: ends the connections of these peers, as the system names them.
        most: descriptors that the process may have.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        shut: Callable[[set[tuple[str, int]]], None] | None = None,
        most: int | None = None,
    ) -> None:
        self._clock = clock
        self._shut = shut or _shut
        self._most = most or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._refused: dict[str, tuple[float, int]] = {}
        self._known: set[tuple[str, int]] = set()
        """Peers that a call was taken from."""
        self._since: dict[tuple[str, int], float] = {}
        self._watching: asyncio.Task[None] | None = None

    def admitted(self, peer: str) -> None:
        """Note that a call of this peer was taken: it is no stranger."""
        if (where := _where(peer)) is not None:
            self._known.add(where)

    def refused(self, peer: str) -> None:
        """Note that a call of this peer was refused, or given up; shut its connection if it floods."""
        now = self._clock()
        begun, count = self._refused.get(peer, (now, 0))
        if now - begun >= 1.0:
            begun, count = now, 0
        self._refused[peer] = (begun, count + 1)
        if count + 1 > MOST_REFUSED and (where := _where(peer)) is not None:
            del self._refused[peer]
            self._shut({where})

    def watch(self, port: int) -> None:
        """Look after the connections to a port from now on, until `stop`."""
        self._watching = asyncio.create_task(self._watch(port))

    def stop(self) -> None:
        """Look no more. Safe to call twice."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, port: int) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look([peer for own, peer in _connections() if own == port])

    def look(self, peers: list[tuple[str, int]]) -> None:
        """Decide about these connections: the silent ones that are there longest go first, if there are too many."""
        now = self._clock()
        here = set(peers)
        self._since = {peer: self._since.get(peer, now) for peer in peers}
        self._known &= here
        self._refused = {peer: seen for peer, seen in self._refused.items() if now - seen[0] < 1.0}
        if len(peers) > _FULL * self._most:
            silent = sorted(here - self._known, key=lambda peer: self._since[peer])
            over = len(peers) - int(_EASY * self._most)
            if silent[:over]:
                self._shut(set(silent[:over]))


def _where(peer: str) -> tuple[str, int] | None:
    """Return address and port of gRPC's `ipv4:1.2.3.4:567` or `ipv6:%5B::1%5D:567`; None of a socket file."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in {"ipv4", "ipv6"} or not port.isdigit():
        return None
    return _plain(host.strip("[]")), int(port)


def _plain(host: str) -> str:
    return host.removeprefix("::ffff:").partition("%")[0]


def _sockets() -> Iterator[tuple[socket.socket, int, tuple[str, int]]]:
    """Yield the process's connected sockets of the internet, each with its own port and its peer."""
    with contextlib.suppress(OSError):
        for path in _DESCRIPTORS.iterdir():
            with contextlib.suppress(OSError, ValueError):
                held = socket.socket(fileno=int(path.name))
                try:
                    if held.family in {socket.AF_INET, socket.AF_INET6} and held.type == socket.SOCK_STREAM:
                        peer = held.getpeername()
                        yield held, int(held.getsockname()[1]), (_plain(peer[0]), int(peer[1]))
                finally:
                    held.detach()  # it stays gRPC's


def _connections() -> Iterator[tuple[int, tuple[str, int]]]:
    return ((port, peer) for _, port, peer in _sockets())


def _shut(peers: set[tuple[str, int]]) -> None:
    for held, _, peer in _sockets():
        if peer in peers:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
