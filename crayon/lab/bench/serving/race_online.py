"""Requests that arrive as they like: the highest rate that our server and llama-server bear under the same bounds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crayon.lab.bench.report import BenchRow
from crayon.lab.bench.serving.client import TimedRequest, drive
from crayon.lab.bench.serving.offline import rate as offline_rate
from crayon.lab.bench.serving.online import STEPS_PER_GAP, Bounds, HighestRate, RateResult, judge, search_rate
from crayon.lab.bench.serving.rows import online_rows
from crayon.lab.bench.serving.tuning import ONLINE_BATCHES
from crayon.lab.bench.serving.workloads import CONSTANT, Workload, even_thirds, poisson_arrivals

if TYPE_CHECKING:
    from crayon.lab.bench.serving.plan import Plan
    from crayon.lab.bench.serving.systems import System, SystemSettings
    from crayon.lab.bench.serving.testbed import ServingTestbed

ABOVE = 1.2  # the highest rate tried, over what the faster of the two answers offline
COMPARED_AT = 0.5  # of that: where llama-server's flags are compared


@dataclass(frozen=True, slots=True)
class Online:
    """What the search found for both, for rows and plots."""

    workload: str
    ours: HighestRate
    theirs: HighestRate
    against: str
    own: str


def race_online(bed: ServingTestbed) -> tuple[list[BenchRow], list[Online]]:
    """Search both rates on every online workload of the plan."""
    bounds = Bounds(STEPS_PER_GAP * bed.optimum.step_seconds, bed.model_plan.first_seconds)
    rows: list[BenchRow] = []
    found: list[Online] = []
    for name in bed.model_plan.online:
        most = ABOVE * _capacity(bed, name)
        settings = _flags(bed, name, most * COMPARED_AT, bounds)
        bed.progress(f"{bed.label}: {name} online, up to {most:.2f} requests/s")
        own = under_bounds(bed.best_ours(name), bounds)
        ours = _search(bed, bed.ours(own), name, most, bounds)
        theirs = _search(bed, bed.llama(settings), name, most, bounds)
        one = Online(name, ours, theirs, f"llama-server {settings.describe()}", f"crayon {own.describe()}")
        found.append(one)
        rows += online_rows(bed.label, name, ours, theirs, one.against, one.own)
        if name == CONSTANT:
            rows += _tails(bed.label, one)
    return rows, found


def under_bounds(settings: SystemSettings, bounds: Bounds) -> SystemSettings:
    """Return our settings told what the bounds are; what they need besides a step is left to them."""
    told = ("--step-ms", f"{900 * bounds.gap:.0f}", "--first-ms", f"{750 * bounds.first:.0f}")
    return replace(settings, batch=None, ubatch=None, options=told)


def plan_arrivals(plan: Plan, rate: float) -> int:
    """Return how many requests a probe has: enough to judge, in at most twice its time."""
    wanted = max(plan.arrivals, round(rate * plan.probe_seconds))
    return max(2, min(wanted, round(2 * rate * plan.probe_seconds)))


def probe(bed: ServingTestbed, system: System, workload: Workload, rate: float, bounds: Bounds) -> RateResult:
    """Let requests arrive at a rate, and judge what their users saw."""
    count = plan_arrivals(bed.plan, rate)
    pairs = even_thirds(list(itertools.islice(itertools.cycle(workload.pairs), count)))
    arrivals = poisson_arrivals(rate, count)
    jobs = [
        TimedRequest(bed.maker.make(pair.prompt), pair.answer, at) for pair, at in zip(pairs, arrivals, strict=True)
    ]
    window = count / rate
    # Who keeps the bounds has ended by then.
    grace = bounds.first + bounds.gap * max(pair.answer for pair in pairs)
    run = drive(system, jobs, give_up=window + grace)
    return judge(run, rate, window, bounds)


def _search(bed: ServingTestbed, system: System, name: str, most: float, bounds: Bounds) -> HighestRate:
    workload = bed.workload(name)
    with system:
        bed.warm(system)
        return search_rate(lambda rate: probe(bed, system, workload, rate, bounds), most, bed.model_plan.probes)


def _flags(bed: ServingTestbed, name: str, rate: float, bounds: Bounds) -> SystemSettings:
    """Return the flags with which llama-server keeps the bounds best: its offline ones, or those of smaller steps."""
    bed.progress(f"{bed.label}: llama-server's flags under the bounds on {name}")
    best = bed.best_llama(name)

    def excess(settings: SystemSettings) -> float:
        system = bed.llama(settings)
        with system:
            bed.warm(system)
            verdict = probe(bed, system, bed.workload(name), rate, bounds)
        return verdict.excess + verdict.unfinished

    return min([best, *(replace(best, batch=size, ubatch=size) for size in ONLINE_BATCHES)], key=excess)


def _capacity(bed: ServingTestbed, name: str) -> float:
    """Return the requests a second that the faster system answers offline, measured now if they have not been."""
    if name not in bed.rates:
        workload = bed.workload(name)
        systems = (bed.ours(bed.best_ours(name)), bed.llama(bed.best_llama(name)))
        runs = [bed.run(system, bed.jobs(workload)) for system in systems]
        bed.rates[name] = max(offline_rate([run], len(workload.pairs)) for run in runs)
    return bed.rates[name]


def _tails(model: str, one: Online) -> list[BenchRow]:
    """Return how far the slowest answers are from the mean, at the highest rate that each bears, or the lowest."""
    rows = []
    for system, found in ((one.own, one.ours), (one.against, one.theirs)):
        best = found.best
        at = best or min(found.verdicts, key=lambda verdict: verdict.rate)
        rows.append(
            BenchRow.median(
                "token_latency_p99_over_mean",
                "ratio",
                [at.tail],
                model=model,
                workload=f"{one.workload}, {system}",
                note=f"at {at.rate:.2f} requests/s" + ("" if best else ", the lowest tried: none keeps the bounds"),
            )
        )
    return rows
