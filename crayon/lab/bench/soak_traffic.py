"""The traffic of a soak: requests of every kind, with cancels and deadlines, and what becomes of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.client import Breaker, RemoteEngine
from crayon.engine import Delta, EncodeRequest, Finished, GenerateRequest, ScoreRequest, deadline_after
from crayon.errors import CancelledError, CrayonError, DeadlineExceededError, OverloadedError
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from crayon.client.access import AccessOptions

# The server is killed for none of them: a request that has not ended by then is lost.
PATIENCE_S = 60.0
SHORT_DEADLINE_S = 0.05
REQUESTS_A_CONNECTION = 200
"""Then a client leaves and another comes, so that connections are part of the traffic."""
_WORDS = ("the", "train", "leaves", "at", "nine", "and", "arrives", "in", "time", "for", "tea", "rates", "fell", "café")


@dataclass(slots=True)
class Counts:
    """What became of requests; each ends in exactly one of these, and lost is what must not be."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    cancelled: int = 0
    deadline: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)
    """How long each answered request took."""
    failures: Counter[str] = field(default_factory=Counter)
    """The lost ones, by the error's kind, or "no end" for those that did not end at all."""

    def lose(self, why: str) -> None:
        """Note a lost request."""
        self.lost += 1
        self.failures[why] += 1


class Traffic:
    """Clients that ask one after the other until `stop`.

    Args:
        address: the server.
        seed: what is asked, and who leaves when, is the same for the same seed.
        counts: what is added to.
        tokens: of the clients, one each; none: nobody needs one.
    """

    def __init__(self, address: str, seed: int, counts: Counts, tokens: Sequence[str] = ()) -> None:
        self._address = address
        self._tokens = tokens
        self._rng = random.Random(seed)  # noqa: S311 - no secret
        self._counts = counts
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin no more requests; those under way go on to their ends."""
        self._stop.set()

    def count_in(self, counts: Counts) -> None:
        """Add what is begun from now on to other counts."""
        self._counts = counts

    async def run(self, clients: int) -> None:
        """Ask with so many clients at a time."""
        async with asyncio.TaskGroup() as group:
            for i in range(clients):
                group.create_task(self._client(self._tokens[i] if self._tokens else None))

    async def _client(self, token: str | None) -> None:
        access: AccessOptions = {} if token is None else {"token": token}
        while not self._stop.is_set():
            # Refused requests tell of a full server, not of a broken one, and each request is to meet the server.
            remote = RemoteEngine(
                self._address,
                timeout=PATIENCE_S,
                connect_timeout=PATIENCE_S / 2,
                breaker=Breaker(failures=2**31),
                **access,
            )
            try:
                for _ in range(self._rng.randint(1, REQUESTS_A_CONNECTION)):
                    if self._stop.is_set():
                        break
                    await self._ask(remote)
            finally:
                await asyncio.to_thread(remote.close)

    async def _ask(self, remote: RemoteEngine) -> None:
        kind = self._rng.random()
        if kind < 0.6:
            await self._counted(lambda: self._generate(remote, leave_after=None))
        elif kind < 0.75:
            leave_after = self._rng.choice((0, 1, 3))
            await self._counted(lambda: self._generate(remote, leave_after=leave_after))
        elif kind < 0.85:
            await self._counted(lambda: self._generate(remote, leave_after=None, deadline=SHORT_DEADLINE_S))
        elif kind < 0.93:
            scored = ScoreRequest(messages=self._prompt(), continuations=("nine", "tea time"))
            await self._counted(lambda: asyncio.wrap_future(remote.score(scored)))
        else:
            encoded = EncodeRequest(texts=(self._text(), self._text()))
            await self._counted(lambda: asyncio.wrap_future(remote.encode(encoded)))

    async def _counted(self, request: Callable[[], Awaitable[Any]]) -> None:
        counts, begun = self._counts, time.monotonic()
        counts.sent += 1
        try:
            async with asyncio.timeout(PATIENCE_S + 10.0):
                await request()
        except OverloadedError:
            counts.refused += 1
            await asyncio.sleep(self._rng.uniform(0.0, 0.2))  # far sooner than the server asks for
        except DeadlineExceededError:
            counts.deadline += 1
        except CancelledError:
            counts.cancelled += 1
        except CrayonError as error:
            counts.lose(type(error).__name__)
        except TimeoutError:
            counts.lose("no end")
        else:
            counts.answered += 1
            counts.seconds.append(time.monotonic() - begun)

    async def _generate(self, remote: RemoteEngine, *, leave_after: int | None, deadline: float | None = None) -> None:
        """Read an answer; leave it after some pieces, or before its first."""
        sampling = Sampling(max_tokens=self._rng.choice((1, 8, 40)), ignore_eos=True)
        wanted = GenerateRequest(
            messages=self._prompt(),
            sampling=sampling,
            deadline=deadline_after(deadline),
            signals=self._rng.random() < 0.5,
        )
        pieces, ended = 0, False
        with remote.generate(wanted) as stream:
            if leave_after == 0:
                stream.cancel()
            async for event in stream:
                pieces += isinstance(event, Delta)
                ended = isinstance(event, Finished)
                if pieces == leave_after:
                    stream.cancel()
        if not ended:
            raise CrayonError("the answer has no end")

    def _prompt(self) -> tuple[Message, ...]:
        return (Message("user", self._text()),)

    def _text(self) -> str:
        return " ".join(self._rng.choices(_WORDS, k=self._rng.choice((3, 10, 60))))
