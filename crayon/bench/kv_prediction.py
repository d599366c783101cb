"""What predicting the use of the cache is worth: rules for admission beside an oracle that knows every answer's length.

Lengths are drawn from lognormal distributions with the means and deviations of the three workloads in Table 4 of the
NanoFlow paper (OSDI 2025). Nothing is measured on a clock, so every machine prints the same figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.bench.kv_replay import Arrival, Replay, Tally
from crayon.bench.report import Report, Row
from crayon.server.prediction import Rule
from crayon.server.scheduler.lengths import Lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = (8, 64)
"""How many average requests the cache holds: a small CPU server with 8 slots, and a GPU."""
MOST = 4
"""`max_tokens` of every request, in mean answers: 1 to 2 answers in 100 are cut by it."""
ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class Workload:
    """Mean and standard deviation of prompts and answers, in tokens."""

    name: str
    prompt: tuple[int, int]
    answer: tuple[int, int]

    @property
    def most(self) -> int:
        """Tokens that an answer may get."""
        return MOST * self.answer[0]

    def capacity(self, requests: int) -> int:
        """Return the tokens that `requests` requests hold on average, at any step of their lives."""
        mean, deviation = self.answer
        # Long answers are met more often: half of E[L^2] / E[L] is written, on average.
        return round(requests * (self.prompt[0] + (mean**2 + deviation**2) / (2 * mean)))

    def arrivals(self, seed: int, capacity: int) -> Iterator[Arrival]:
        """Yield requests without end; a prompt that would never fit is cut."""
        rng = np.random.default_rng(seed)
        while True:
            prompts, answers = _lognormal(rng, *self.prompt), _lognormal(rng, *self.answer)
            for prompt, answer in zip(prompts, answers, strict=True):
                yield Arrival(min(prompt, capacity - self.most), answer, self.most)


WORKLOADS = (
    Workload("Splitwise", (1155, 1109), (211, 163)),
    Workload("LMSYS-Chat", (102, 169), (222, 210)),
    Workload("ShareGPT", (246, 547), (322, 244)),
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A rule for admission; without `rule` it is the oracle."""

    name: str
    rule: Rule | None = None
    caution: float | None = None
    margin: float = 0.0

    def replay(self, arrivals: Iterator[Arrival], capacity: int) -> Replay:
        """Return an empty cache under this rule."""
        lengths = None if self.rule is None else Lengths(self.rule)
        return Replay(arrivals, capacity, lengths, margin=self.margin, caution=self.caution)


CONTESTANTS = (
    Contestant(ORACLE),
    Contestant("worst case", Rule.WORST),
    Contestant("paper", Rule.PAPER),
    Contestant("paper, 10 % free", Rule.PAPER, margin=0.1),
    Contestant("mean", Rule.MEAN),
    Contestant("quantile 0.9", Rule.QUANTILE),
    Contestant("shares + 1 sd", Rule.MEAN, caution=1.0),
    Contestant("shares + 2 sd", Rule.MEAN, caution=2.0),
    Contestant("shares + 3 sd", Rule.MEAN, caution=3.0),
)


def bench_kv(answers: int = 500, seeds: int = 3, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Replay every workload and cache size under every rule, `seeds` times for about `answers` answers each."""
    report = Report("kv")
    for workload in WORKLOADS:
        for size in SIZES:
            progress(f"{workload.name}, cache for {size}")
            capacity = workload.capacity(size)
            steps = max(1, answers * workload.answer[0] // size)
            oracle: list[float] = []
            for contestant in CONTESTANTS:
                tallies = [
                    contestant.replay(workload.arrivals(seed, capacity), capacity).run(steps) for seed in range(seeds)
                ]
                running = [tally.running / tally.steps for tally in tallies]
                oracle = oracle or running
                where = f"{workload.name}, cache for {size}: {contestant.name}"
                report.rows += _rows(where, tallies, [ours / best for ours, best in zip(running, oracle, strict=True)])
    return report


def _rows(where: str, tallies: list[Tally], ratios: list[float]) -> list[Row]:
    figures = {
        ("kv_running", "reqs"): [tally.running / tally.steps for tally in tallies],
        ("kv_tokens_per_step", "tokens"): [(tally.read + tally.running) / tally.steps for tally in tallies],
        ("kv_ratio_vs_oracle", "ratio"): ratios,
        ("kv_overcommitted_steps", "%"): [100 * tally.overcommits / tally.steps for tally in tallies],
        ("kv_moved_per_1000_written", "tokens"): [1000 * tally.moved / tally.running for tally in tallies],
    }
    return [Row.median(metric, unit, runs, workload=where) for (metric, unit), runs in figures.items()]


def _lognormal(rng: np.random.Generator, mean: int, deviation: int) -> list[int]:
    variance = np.log1p((deviation / mean) ** 2)
    draws = rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), 1024)
    return [max(1, round(draw)) for draw in draws.tolist()]
