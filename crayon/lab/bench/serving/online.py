"""The highest rate of arrivals that a server bears: found by halving, judged by what its users wait for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.lab.bench.serving.client import Run, Timing

# Three times the bare step of 8: a step may hold a prompt's tokens besides, but a reader must not see it stall.
STEPS_PER_GAP = 3.0
# An answer is under way for a while; a queue grows if the number of them does, beyond chance.
GROWTH, SLACK = 1.3, 3.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What users may have to wait: 95 % of them at most this, in seconds."""

    gap: float
    first: float


@dataclass(frozen=True, slots=True)
class RateResult:
    """How a run at one rate went.

    Args:
        rate: requests a second.
        gap, first: 95th percentiles of the seconds between tokens and to the first one.
        latency: 95th percentile of an answer's seconds over its tokens.
        tail: the 99th percentile of those over their mean.
        excess: how far over the bounds the worse of `gap` and `first` is; up to 1 is good.
        grows: whether more and more answers were under way.
        unfinished: answers that did not end in time.
    """

    rate: float
    gap: float
    first: float
    latency: float
    tail: float
    excess: float
    grows: bool
    unfinished: int

    @property
    def passed(self) -> bool:
        """Whether every bound was kept."""
        return self.excess <= 1.0 and not self.grows and not self.unfinished

    @property
    def faults(self) -> str:
        """What was not kept, in words; "" where all was."""
        found = []
        if self.excess > 1.0:
            waited = f"{1000 * self.gap:.0f} ms between tokens, {self.first:.2f} s for the first"
            found.append(f"{self.excess:.2f} times the bound is waited ({waited})")
        if self.grows:
            found.append("ever more answers are under way")
        if self.unfinished:
            found.append(f"{self.unfinished} answers have no end")
        return ", ".join(found)


def judge(run: Run, rate: float, window: float, bounds: Bounds) -> RateResult:
    """Hold a run against the bounds.

    Args:
        run: with arrivals in `[0, window)`.
        rate: requests a second.
        window: seconds in which requests arrived.
        bounds: what is allowed.
    """
    gaps = [gap for timing in run.timings for gap in timing.gaps]
    firsts = [timing.first for timing in run.timings if timing.first is not None]
    latencies = per_token_latencies(run.timings)
    gap, first = percentile(gaps, 95), percentile(firsts, 95)
    return RateResult(
        rate=rate,
        gap=gap,
        first=first,
        latency=percentile(latencies, 95),
        tail=percentile(latencies, 99) / float(np.mean(latencies)) if latencies else 0.0,
        excess=max(gap / bounds.gap, first / bounds.first),
        grows=grows(run.timings, window),
        unfinished=sum(not timing.finished for timing in run.timings),
    )


def percentile(values: Sequence[float], q: float) -> float:
    """Return the q-th percentile, 0 of nothing."""
    return float(np.percentile(np.asarray(values), q)) if values else 0.0


def per_token_latencies(timings: Sequence[Timing]) -> list[float]:
    """Return, for each whole answer, the seconds from sending to its end over its tokens."""
    return [(timing.end - timing.sent) / timing.tokens for timing in timings if timing.end is not None]


def under_way(timings: Sequence[Timing], start: float, end: float) -> float:
    """Return how many answers were under way in `[start, end)`, averaged over time."""
    total = 0.0
    for timing in timings:
        stop = end if timing.end is None else timing.end
        total += max(0.0, min(end, stop) - max(start, timing.sent))
    return total / (end - start)


def grows(timings: Sequence[Timing], window: float) -> bool:
    """Whether more and more answers are under way: the last third of the window against the middle one."""
    middle = under_way(timings, window / 3, 2 * window / 3)
    last = under_way(timings, 2 * window / 3, window)
    return last > GROWTH * middle + SLACK


@dataclass(frozen=True, slots=True)
class HighestRate:
    """The result of a search: the highest rate that passed (0: none did), and all that was tried."""

    rate: float
    verdicts: tuple[RateResult, ...]

    @property
    def best(self) -> RateResult | None:
        """The verdict at that rate."""
        passed = [verdict for verdict in self.verdicts if verdict.passed]
        return max(passed, key=lambda verdict: verdict.rate, default=None)

    @property
    def next(self) -> RateResult | None:
        """The verdict at the lowest rate that did not pass."""
        failed = [verdict for verdict in self.verdicts if not verdict.passed]
        return min(failed, key=lambda verdict: verdict.rate, default=None)


def search_rate(probe: Callable[[float], RateResult], most: float, probes: int) -> HighestRate:
    """Halve `[0, most]` with `probes` runs.

    The highest rate is tried last if every lower one passed; the true bound is then above `most` and is not looked for.
    """
    low, high = 0.0, most
    verdicts = []
    for left in range(probes, 0, -1):
        rate = most if left == 1 and high == most else (low + high) / 2
        verdict = probe(rate)
        verdicts.append(verdict)
        if verdict.passed:
            low = rate
        else:
            high = rate
    return HighestRate(low, tuple(verdicts))
