"""Searches find what is there to be found, on systems whose capacity is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crayon.lab.bench.serving.client import Run, TimedRequest, Timing
from crayon.lab.bench.serving.online import (
    Bounds,
    RateResult,
    grows,
    judge,
    per_token_latencies,
    percentile,
    search_rate,
    under_way,
)
from crayon.lab.bench.serving.plan import Plan
from crayon.lab.bench.serving.prompts import Prompt
from crayon.lab.bench.serving.race_online import plan_arrivals
from crayon.lab.bench.serving.systems import SystemSettings
from crayon.lab.bench.serving.tuning import CELLS, offline_axes, own_axes, slots_for, tune, with_flag
from crayon.lab.bench.serving.workloads import poisson_arrivals

BOUNDS = Bounds(gap=0.1, first=2.0)
PROMPT = Prompt((), tuple(range(100)))


def answered(sent: float, first: float, gap: float, tokens: int = 5, *, finished: bool = True) -> Timing:
    arrivals = [(sent + first + n * gap, 1) for n in range(tokens)]
    return Timing(TimedRequest(PROMPT, tokens, sent), sent, arrivals, finished)


def run_of(*timings: Timing) -> Run:
    return Run(timings, max(timing.arrivals[-1][0] for timing in timings), 0.1)


def queued(rate: float, capacity: float, count: int = 400) -> tuple[Run, float]:
    """A server that answers one request after the other, `capacity` a second."""
    free, timings = 0.0, []
    arrivals = poisson_arrivals(rate, count)
    for at in arrivals:
        begin = max(free, at)
        free = begin + 1 / capacity
        timings.append(answered(at, begin - at + 0.2 / capacity, 0.2 / capacity, 5))
    return run_of(*timings), count / rate


def test_a_search_finds_the_rate_that_a_server_bears() -> None:
    def probe(rate: float) -> RateResult:
        run, window = queued(rate, capacity=10.0)
        return judge(run, rate, window, BOUNDS)

    found = search_rate(probe, most=16.0, probes=7)
    assert len(found.verdicts) == 7
    assert 8.0 <= found.rate <= 10.5
    assert found.best is not None
    assert found.best.rate == found.rate
    assert all(verdict.rate > found.rate for verdict in found.verdicts if not verdict.passed)


def test_a_search_halves_and_ends_at_either_end() -> None:
    def probe_up_to(limit: float) -> list[float]:
        tried: list[float] = []

        def probe(rate: float) -> RateResult:
            tried.append(rate)
            return RateResult(rate, 0, 0, 0, 1, 0.5 if rate <= limit else 2.0, grows=False, unfinished=0)

        found = search_rate(probe, 8.0, 4)
        return [*tried, found.rate]

    assert probe_up_to(5.0) == [4.0, 6.0, 5.0, 5.5, 5.0]
    assert probe_up_to(100.0) == [4.0, 6.0, 7.0, 8.0, 8.0]  # the highest is tried, too
    assert probe_up_to(0.0) == [4.0, 2.0, 1.0, 0.5, 0.0]


def test_each_bound_fails_a_run_by_itself() -> None:
    good = [answered(n, 0.5, 0.05) for n in range(20)]
    verdict = judge(run_of(*good), 1.0, 20.0, BOUNDS)
    assert verdict.passed
    assert (verdict.gap, verdict.first) == (pytest.approx(0.05), pytest.approx(0.5))
    assert verdict.excess == pytest.approx(0.5)
    assert not judge(run_of(*[answered(n, 0.5, 0.11) for n in range(20)]), 1.0, 20.0, BOUNDS).passed
    assert not judge(run_of(*[answered(n, 2.1, 0.05) for n in range(20)]), 1.0, 20.0, BOUNDS).passed
    assert not judge(run_of(*good, answered(5, 0.5, 0.05, finished=False)), 1.0, 20.0, BOUNDS).passed
    # One in twenty may be late.
    assert judge(run_of(*good, answered(5, 9.0, 0.05)), 1.0, 20.0, BOUNDS).passed


def test_a_queue_that_grows_is_seen_before_anybody_waits_long() -> None:
    overloaded, window = queued(12.0, capacity=10.0)
    fine, calm = queued(5.0, capacity=10.0)
    assert grows(overloaded.timings, window)
    assert not grows(fine.timings, calm)
    assert not judge(overloaded, 12.0, window, Bounds(10.0, 1000.0)).passed


def test_answers_under_way_are_averaged_over_time() -> None:
    timings = [answered(0.0, 1.0, 1.0, 3), answered(2.0, 1.0, 1.0, 2)]  # until 3 and until 4
    assert under_way(timings, 0.0, 4.0) == pytest.approx((3 + 2) / 4)
    assert under_way(timings, 2.0, 3.0) == pytest.approx(2.0)
    endless = answered(1.0, 1.0, 1.0, finished=False)
    assert under_way([endless], 0.0, 10.0) == pytest.approx(0.9)


def test_latency_per_token_is_of_whole_answers() -> None:
    timings = [answered(1.0, 1.0, 0.5, 3), answered(0.0, 9.0, 1.0, finished=False)]
    assert per_token_latencies(timings) == [pytest.approx(2.0 / 3)]
    assert percentile([], 95) == 0.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


def test_tokens_that_come_together_were_all_waited_for() -> None:
    timing = Timing(TimedRequest(PROMPT, 6), 1.0, [(2.0, 1), (2.5, 4), (4.5, 1)], finished=True)
    assert (timing.tokens, timing.first, timing.end) == (6, 1.0, 4.5)
    assert timing.gaps == [0.5, 2.0]


@pytest.mark.parametrize(("rate", "count"), [(10.0, 200), (2.0, 40), (0.6, 20), (0.25, 10), (0.001, 2)])
def test_a_probe_has_enough_arrivals_but_not_for_ever(rate: float, count: int) -> None:
    assert plan_arrivals(Plan(models=(), probe_seconds=20.0, arrivals=20), rate) == count


START = SystemSettings(slots=32, context=256, threads=2, batch=512, ubatch=512)


def test_tuning_goes_flag_by_flag_and_measures_nothing_twice() -> None:
    tried: list[SystemSettings] = []

    def score(settings: SystemSettings) -> float:
        tried.append(settings)
        return -abs(settings.slots - 16) - abs((settings.ubatch or 0) - 128) - abs((settings.batch or 0) - 2048) / 100

    best, value = tune(START, offline_axes(256), score)
    assert best == replace(START, slots=16, ubatch=128, batch=2048)
    assert value == 0.0
    assert len(tried) == len(set(tried)) == 3 + 1 + 1


def test_ours_is_searched_by_slots_batch_and_parts() -> None:
    assert [name for name, _ in own_axes(256)] == ["slots", "batch", "parts"]


def test_a_batch_is_never_smaller_than_its_parts() -> None:
    small = replace(START, batch=64, ubatch=64)
    assert with_flag(small, "ubatch", 256) == replace(START, batch=256, ubatch=256)
    assert with_flag(START, "batch", 128) == replace(START, batch=128, ubatch=128)
    assert with_flag(START, "slots", 8) == replace(START, slots=8)
    ours = replace(START, ubatch=None)
    assert with_flag(ours, "batch", 128) == replace(ours, batch=128)
    assert with_flag(ours, "parts", 2) == replace(ours, parts=2)


def test_slots_are_bounded_by_the_cache() -> None:
    assert slots_for(256) == (8, 16, 32)
    assert slots_for(2048) == (8, 16)
    assert slots_for(2 * CELLS) == (8,)
