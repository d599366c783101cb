"""Strangers among the clients of a soak: what a server has to bear without its other clients noticing much of it."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from crayon.client import Breaker, RemoteEngine
from crayon.client.access import ServerAccess
from crayon.client.health import ask_health
from crayon.engine import GenerateRequest, ScoreRequest
from crayon.errors import CrayonError
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CONTINUATIONS, WORDS = 128, 60  # of one Score
_LONG = 1_000_000  # characters of a prompt that no context holds
_FLOOD = 20  # answers that are begun and left at once
_SILENT = 32  # connections that say nothing
_QUESTIONS = 16  # for the health at a time, each with a connection of its own
_HELD_S = 2.0
_PATIENCE_S = 30.0
_AGAIN_S = 0.05  # after a refusal


class Attackers:
    """One caller with a token who asks for too much in four ways, and one without who holds what it can.

    Args:
        address: the server.
        token: of the one who may call.
        seed: what is sent is the same for the same seed.
    """

    def __init__(self, address: str, token: str, seed: int) -> None:
        self._address = address
        self._token = token
        self._rng = random.Random(seed)  # noqa: S311 - no secret
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin nothing new."""
        self._stop.set()

    async def run(self) -> None:
        """Attack until stopped, in all ways at a time. What becomes of it is not looked at."""
        remote = self._remote(self._token)
        stranger = self._remote(self._token[::-1])
        try:
            async with asyncio.TaskGroup() as group:
                for attack in (
                    lambda: self._score(remote),
                    lambda: self._score(remote),
                    lambda: self._long(remote),
                    lambda: self._flood(remote),
                    lambda: self._flood(stranger),
                    self._silent,
                    self._ask_health,
                ):
                    group.create_task(self._again(attack))
        finally:
            await asyncio.to_thread(remote.close)
            await asyncio.to_thread(stranger.close)

    def _remote(self, token: str) -> RemoteEngine:
        return RemoteEngine(self._address, timeout=_PATIENCE_S, breaker=Breaker(failures=2**31), token=token)

    async def _again(self, attack: Callable[[], Awaitable[None]]) -> None:
        while not self._stop.is_set():
            with suppress(CrayonError, OSError, TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await attack()
            await asyncio.sleep(_AGAIN_S)

    async def _score(self, remote: RemoteEngine) -> None:
        texts = tuple(" ".join(self._rng.choices("abcdefgh", k=WORDS)) for _ in range(CONTINUATIONS))
        await asyncio.wrap_future(remote.score(ScoreRequest(messages=(Message("user", "hi"),), continuations=texts)))

    async def _long(self, remote: RemoteEngine) -> None:
        wanted = GenerateRequest(messages=(Message("user", "\t" * _LONG),), sampling=Sampling(max_tokens=1))
        with remote.generate(wanted) as stream:
            async for _ in stream:
                pass

    async def _flood(self, remote: RemoteEngine) -> None:
        wanted = GenerateRequest(messages=(Message("user", "hi"),), sampling=Sampling(max_tokens=64))
        for stream in [remote.generate(wanted) for _ in range(_FLOOD)]:
            stream.cancel()

    async def _silent(self) -> None:
        host, _, port = self._address.rpartition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(_SILENT)]
        await asyncio.sleep(_HELD_S)
        for _, writer in opened:
            writer.close()

    async def _ask_health(self) -> None:
        access = ServerAccess(self._address)
        await asyncio.gather(*(asyncio.to_thread(ask_health, access, "", _PATIENCE_S) for _ in range(_QUESTIONS)))
