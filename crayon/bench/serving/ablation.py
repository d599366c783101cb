"""Our server with its parts switched on one after the other, and its throughput against the number of clients."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.bench.report import Row
from crayon.bench.serving.client import drive
from crayon.bench.serving.rows import share
from crayon.bench.serving.systems import Settings
from crayon.bench.serving.workloads import CONSTANT, Workload, constant

if TYPE_CHECKING:
    from crayon.bench.serving.bed import Bed
    from crayon.bench.serving.client import Run

SLOTS = 16
SEQUENTIAL_REQUESTS = 6  # of one at a time; a whole run of them would take minutes and say the same


@dataclass(frozen=True, slots=True)
class Variant:
    """Our server with some of its parts.

    Args:
        name: what is added to the variant before.
        options: of `crayon serve`.
        slots: requests computed together.
    """

    name: str
    options: tuple[str, ...]
    slots: int = SLOTS


_WHOLE = ("--nano-batches", "1", "--overlap", "none")
_SIZES = ("--batch", "512", "--step-ms", "250", "--kv", "split", *_WHOLE)
_BARE = (*_SIZES, "--no-plan-ahead", "--no-spill", "--predict", "worst", "--idle-prefixes", "0")
_AHEAD = (*_SIZES, "--plan-ahead", "--no-spill", "--predict", "worst", "--idle-prefixes", "0")
_PREDICTED = (*_SIZES, "--plan-ahead", "--spill", "--predict", "mean", "--idle-prefixes", "0")
# Each adds to the one before; all on the same kernels. Prediction without spilling would have to abort requests where
# it is wrong, so the two are one. Nano-batches without overlap cost what reading the weights twice does (13 % in the
# paper): the row shows what the overlap has to make up for. It comes last, since it takes cores from both halves.
VARIANTS = (
    Variant("sequential", _BARE, slots=1),
    Variant("+ constant batch, cells shared by all", (*_BARE, "--kv", "unified")),
    Variant("+ cells of its own for each request", _BARE),
    Variant("+ async", _AHEAD),
    Variant("+ prediction and spill", _PREDICTED),
    Variant("+ nano-batches", (*_PREDICTED, "--nano-batches", "2")),
    Variant("+ nano-batches, overlapped", (*_PREDICTED, "--overlap", "dual")),
)


def race_ablation(bed: Bed, variants: tuple[Variant, ...] = VARIANTS) -> tuple[list[Row], list[tuple[str, float]]]:
    """Measure the variants in turn, as often as the plan says; return their rows, and their throughput for the plot.

    All of them are there at the same time, and idle but for one: a machine that is slow for a while is so for all.
    """
    bed.progress(f"{bed.label}: ablation, {len(variants)} variants in turn")
    workload, few = constant(bed.model_plan.requests), constant(SEQUENTIAL_REQUESTS)
    found: list[list[Run]] = [[] for _ in variants]
    with ExitStack() as stack:
        systems = []
        for variant in variants:
            settings = Settings(
                slots=variant.slots, context=workload.context, threads=bed.threads, options=variant.options
            )
            systems.append(stack.enter_context(bed.ours(settings)))
            bed.warm(systems[-1])
        for _ in range(bed.model_plan.runs):
            for variant, system, runs in zip(variants, systems, found, strict=True):
                runs.append(drive(system, bed.jobs(workload if variant.slots > 1 else few)))
    rows, bars = [], []
    for variant, runs in zip(variants, found, strict=True):
        speeds = [run.tokens_per_second for run in runs]
        reached = share(bed.optimum, runs)
        bars.append((variant.name, statistics.median(speeds)))
        rows.append(
            Row.median(
                "ablation_tokens_per_s",
                "1/s",
                speeds,
                model=bed.label,
                workload=f"{CONSTANT}, {variant.name}",
                note=f"share of Opt_engine {reached:.3f}",
            )
        )
    return rows, bars


def race_concurrency(bed: Bed) -> tuple[list[Row], dict[str, list[tuple[float, float]]]]:
    """Measure throughput with so many clients, each asking again when it is answered; for both servers."""
    counts = bed.plan.concurrencies
    curves: dict[str, list[tuple[float, float]]] = {}
    rows = []
    workload: Workload = constant(max(bed.plan.search_requests, 2 * max(counts)))
    settings = Settings(slots=max(counts), context=workload.context, threads=bed.threads)
    bed.progress(f"{bed.label}: throughput against clients")
    for system in (bed.ours(settings), bed.llama(settings)):
        with system:
            bed.warm(system)
            for count in counts:
                jobs = bed.jobs(workload, max(4, 2 * count))
                speed = drive(system, jobs, concurrency=count).tokens_per_second
                curves.setdefault(system.name, []).append((float(count), speed))
                rows.append(
                    Row.median(
                        "tokens_per_s_at_concurrency",
                        "1/s",
                        [speed],
                        model=bed.label,
                        workload=f"{CONSTANT}, {count} clients, {system.name}",
                    )
                )
    return rows, curves
