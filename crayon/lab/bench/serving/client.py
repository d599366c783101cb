"""The one client that drives every system: when each request was sent, and when its tokens came."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from crayon.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.completion import Blend
    from crayon.lab.bench.serving.prompts import Prompt
    from crayon.lab.bench.serving.systems import Connection, System


ANSWER_SECONDS = 900.0  # no workload comes near it: a system that hangs ends the race


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """One request: what, how long an answer, and when it is sent (seconds after the start)."""

    prompt: Prompt
    answer: int
    at: float = 0.0
    blend: Blend | None = None


@dataclass(slots=True)
class Timing:
    """What became of a job. Times are seconds after the start of the run.

    `arrivals` holds a pair for each message that brought tokens: when, and how many.
    """

    job: TimedRequest
    sent: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    finished: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of the answer that came."""
        return sum(count for _, count in self.arrivals)

    @property
    def first(self) -> float | None:
        """Seconds from sending to the first token."""
        return self.arrivals[0][0] - self.sent if self.arrivals else None

    @property
    def end(self) -> float | None:
        """When the last token came."""
        return self.arrivals[-1][0] if self.finished else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between messages with tokens: tokens that come together were all waited for."""
        times = [at for at, _ in self.arrivals]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


@dataclass(frozen=True, slots=True)
class Run:
    """One run over a system: every job's timing, and what the client itself used."""

    timings: tuple[Timing, ...]
    seconds: float
    client_cpu_seconds: float

    @property
    def complete(self) -> bool:
        """Whether every answer came whole."""
        return all(timing.finished for timing in self.timings)

    @property
    def tokens(self) -> int:
        """Tokens of the prompts that were answered and of their answers."""
        return sum(len(t.job.prompt.ids) + t.tokens for t in self.timings if t.finished)

    @property
    def tokens_per_second(self) -> float:
        """Prompt and answer tokens a second, from the first request to the last token."""
        return self.tokens / self.seconds

    @property
    def client_share(self) -> float:
        """Cores that the client kept busy."""
        return self.client_cpu_seconds / self.seconds


def drive(
    system: System, jobs: Sequence[TimedRequest], *, concurrency: int | None = None, give_up: float | None = None
) -> Run:
    """Send every job at its time and read all answers.

    Args:
        system: started.
        jobs: what to send.
        concurrency: most answers under way at once (None: as they come); the others wait in the client.
        give_up: seconds after which what is still under way is cancelled and counts as unfinished (None: never).

    Raises:
        ServerError: an answer failed, or had another number of tokens than was asked for.
    """
    return asyncio.run(_drive(system, jobs, concurrency, give_up))


async def _drive(system: System, jobs: Sequence[TimedRequest], concurrency: int | None, give_up: float | None) -> Run:
    timings = [Timing(job) for job in jobs]
    gate = asyncio.Semaphore(concurrency or len(jobs) or 1)
    async with system.connect() as connection:
        before, start = _cpu(), time.perf_counter()
        tasks = [asyncio.create_task(_one(connection, timing, gate, start)) for timing in timings]
        try:
            done, _ = await asyncio.wait(tasks, timeout=give_up, return_when=asyncio.FIRST_EXCEPTION)
            failed = next((task for task in done if task.exception() is not None), None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        used = _cpu() - before
        if failed is not None:
            failed.result()
    ends = [timing.arrivals[-1][0] for timing in timings if timing.arrivals]
    return Run(tuple(timings), max(ends, default=time.perf_counter() - start), used)


async def _one(connection: Connection, timing: Timing, gate: asyncio.Semaphore, start: float) -> None:
    job = timing.job
    await asyncio.sleep(max(0.0, start + job.at - time.perf_counter()))
    async with gate:
        timing.sent = time.perf_counter() - start
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                async for count in connection.stream(job.prompt, job.answer, job.blend):
                    timing.arrivals.append((time.perf_counter() - start, count))
        except TimeoutError as error:
            raise ServerError(f"an answer did not end within {ANSWER_SECONDS:g} s") from error
    if timing.tokens != job.answer:
        raise ServerError(f"an answer has {timing.tokens} tokens instead of {job.answer}")
    timing.finished = True


def _cpu() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)
