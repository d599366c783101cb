"""Small races with a question each: one client alone, many blends, a shared prefix, a long prompt among others."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from crayon.completion import Blend
from crayon.errors import ConfigError
from crayon.lab.bench.report import BenchRow
from crayon.lab.bench.serving.client import TimedRequest, drive
from crayon.lab.bench.serving.offline import in_turn
from crayon.lab.bench.serving.online import STEPS_PER_GAP, Bounds, percentile
from crayon.lab.bench.serving.optimum import decode_rate
from crayon.lab.bench.serving.race_online import under_bounds
from crayon.lab.bench.serving.rows import Raced, offline_row
from crayon.lab.bench.serving.systems import SystemSettings
from crayon.lab.bench.serving.workloads import CONSTANT, TextPair, Workload
from crayon.llama.model import Model

if TYPE_CHECKING:
    from crayon.adapters import Pool
    from crayon.lab.bench.serving.client import Run
    from crayon.lab.bench.serving.systems import System
    from crayon.lab.bench.serving.testbed import ServingTestbed

CLIENTS = 16
SYSTEM_WORDS = 200
PREFIXED = 64  # tokens of a prompt after the shared start
OTHERS = TextPair(64, 256)
TALKERS = 8
ALONE = TextPair(128, 64)
ALONE_RUNS = 5


def race_single(bed: ServingTestbed) -> list[BenchRow]:
    """Measure decoding of one client alone against the bare library's of as many tokens at the same depth, in turn."""
    bed.progress(f"{bed.label}: one client alone")
    settings = SystemSettings(slots=1, context=512, threads=bed.threads)
    rates, bare = [], []
    with bed.ours(settings) as system, Model(bed.path) as model:
        bed.warm(system)
        for _ in range(ALONE_RUNS):
            bare.append(decode_rate(model, ALONE.prompt, ALONE.answer, threads=bed.threads))
            (timing,) = drive(system, [TimedRequest(bed.maker.make(ALONE.prompt), ALONE.answer)]).timings
            first, last = timing.arrivals[0], timing.arrivals[-1]
            rates.append((timing.tokens - first[1]) / (last[0] - first[0]))
    return [
        BenchRow.median(
            "b1_decode_ratio_vs_library",
            "ratio",
            [ours / theirs for ours, theirs in zip(rates, bare, strict=True)],
            model=bed.label,
            workload=f"{ALONE.prompt}/{ALONE.answer}, one client",
            against="the bare library",
            note=f"{statistics.median(rates):.1f} against {statistics.median(bare):.1f} tokens/s",
        )
    ]


def race_blends(bed: ServingTestbed, pool: Pool | None) -> list[BenchRow]:
    """Race 16 clients with a blend each against 16 clients with one blend.

    Raises:
        ConfigError: there is no pool.
    """
    if pool is None:
        raise ConfigError("pool", f"no pool is shipped for {bed.label}; name one with --pool")
    bed.progress(f"{bed.label}: {CLIENTS} clients with different blends and with one")
    workload = Workload(CONSTANT, (TextPair(128, 64),) * CLIENTS)
    rng = np.random.default_rng(0)
    weights = [tuple(float(w) for w in rng.dirichlet(np.ones(len(pool)))) for _ in range(CLIENTS)]
    blends = [Blend(pool.id, each) for each in weights]
    many: list[Run] = []
    one: list[Run] = []
    with bed.ours(SystemSettings(slots=CLIENTS, context=workload.context, threads=bed.threads), pools=True) as system:
        bed.warm(system)
        for turn in range(bed.model_plan.runs):
            kinds = [(many, blends), (one, blends[:1] * CLIENTS)]
            for runs, taken in kinds if turn % 2 == 0 else reversed(kinds):
                jobs = [
                    TimedRequest(j.prompt, j.answer, blend=b) for j, b in zip(bed.jobs(workload), taken, strict=True)
                ]
                runs.append(drive(system, jobs))
    ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(many, one, strict=True)]
    speeds = [statistics.median(run.tokens_per_second for run in runs) for runs in (many, one)]
    return [
        BenchRow.median(
            "many_blends_ratio_vs_one",
            "ratio",
            ratios,
            model=bed.label,
            workload=f"{CONSTANT}, {CLIENTS} clients",
            against="one blend for all",
            note=f"{speeds[0]:.0f} against {speeds[1]:.0f} tokens/s, pool {pool.id}",
        )
    ]


def race_prefix(bed: ServingTestbed) -> list[BenchRow]:
    """Race on prompts that share their start, where llama-server may reuse what its slots hold."""
    shared = bed.maker.length(bed.maker.text(SYSTEM_WORDS))
    pair = TextPair(shared + PREFIXED, 32)
    workload = Workload(f"{shared} tokens shared, {PREFIXED} own, 32 out", (pair,) * bed.model_plan.requests)
    bed.progress(f"{bed.label}: prompts that share a prefix")
    ours, theirs = bed.ours(bed.settings(workload)), bed.llama(bed.settings(workload), reuse_prefix=True)
    with ours, theirs:
        for each in (ours, theirs):
            bed.warm(each)
        batches = []
        for _ in range(bed.model_plan.runs):
            # Another start each time, or the second run would be a race of other caches.
            text = bed.maker.text(SYSTEM_WORDS)
            room = bed.maker.length(text) + PREFIXED
            batches.append([TimedRequest(bed.maker.make(room, text), pair.answer) for _ in workload.pairs])
        runs = in_turn((ours, theirs), batches)
    against = f"llama-server {theirs.settings.describe()}, cache_prompt on"
    raced = Raced(workload, runs[0], runs[1], against, ours.settings.describe())
    return [offline_row(bed.label, raced, bed.optimum, "prefix_ratio_vs_llama_server")]


def race_long_prompt(bed: ServingTestbed) -> list[BenchRow]:
    """Measure the gaps in 8 running answers while a long prompt is read, in bare steps: the longest, and 19 of 20."""
    bed.progress(f"{bed.label}: a prompt of {bed.plan.long_prompt} tokens among {TALKERS} answers")
    workload = Workload("long prompt", (TextPair(bed.plan.long_prompt, 8),))
    settings = SystemSettings(slots=TALKERS + 1, context=workload.context, threads=bed.threads)
    bounds = Bounds(STEPS_PER_GAP * bed.optimum.step_seconds, bed.model_plan.first_seconds)
    rows = []
    for system in (bed.ours(under_bounds(settings, bounds)), bed.llama(settings)):
        with ExitStack() as stack:
            stack.enter_context(system)
            bed.warm(system)
            runs = [_gaps(bed, system) for _ in range(bed.model_plan.runs)]
        name = f"{system.name} {system.settings.describe()}"
        kinds = (
            ("long_prompt_gap_ratio_vs_step", "the longest gap", max),
            ("long_prompt_p95_gap_ratio_vs_step", "of 20 gaps 19 at most", lambda gaps: percentile(gaps, 95)),
        )
        for metric, said, of in kinds:
            found = [of(gaps) for gaps in runs]
            rows.append(
                BenchRow.median(
                    metric,
                    "ratio",
                    [gap / bed.optimum.step_seconds for gap in found],
                    model=bed.label,
                    workload=f"{bed.plan.long_prompt} tokens among {TALKERS} answers, {name}",
                    against="a bare step of 8",
                    note=f"{said} {1000 * max(found):.0f} ms; at most {STEPS_PER_GAP:g} is wanted",
                )
            )
    return rows


def _gaps(bed: ServingTestbed, system: System) -> list[float]:
    """Return the gaps between tokens of answers under way while the long prompt was read, in seconds."""
    talkers = [TimedRequest(bed.maker.make(OTHERS.prompt), OTHERS.answer) for _ in range(TALKERS)]
    # Well after the last of them has begun.
    at = 3 * TALKERS * OTHERS.prompt / bed.optimum.prefill_rate + 5 * bed.optimum.step_seconds
    run = drive(system, [*talkers, TimedRequest(bed.maker.make(bed.plan.long_prompt), 8, at)])
    *others, long = run.timings
    start, end = long.sent, long.arrivals[0][0]
    gaps = [
        later - earlier
        for timing in others
        for (earlier, _), (later, _) in zip(timing.arrivals, timing.arrivals[1:], strict=False)
        if later > start and earlier < end
    ]
    if not gaps:
        raise ConfigError("plan", "the answers ended before the long prompt came; give them more tokens")
    return gaps
