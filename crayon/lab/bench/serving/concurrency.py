"""Throughput of both servers against the number of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.lab.bench.report import BenchRow
from crayon.lab.bench.serving.client import drive
from crayon.lab.bench.serving.systems import SystemSettings
from crayon.lab.bench.serving.workloads import CONSTANT, Workload, constant

if TYPE_CHECKING:
    from crayon.lab.bench.serving.testbed import ServingTestbed


def race_concurrency(bed: ServingTestbed) -> tuple[list[BenchRow], dict[str, list[tuple[float, float]]]]:
    """Measure throughput with so many clients, each asking again when it is answered; for both servers."""
    counts = bed.plan.concurrencies
    curves: dict[str, list[tuple[float, float]]] = {}
    rows = []
    workload: Workload = constant(max(bed.plan.search_requests, 2 * max(counts)))
    settings = SystemSettings(slots=max(counts), context=workload.context, threads=bed.threads)
    bed.progress(f"{bed.label}: throughput against clients")
    for system in (bed.ours(settings), bed.llama(settings)):
        with system:
            bed.warm(system)
            for count in counts:
                jobs = bed.jobs(workload, max(4, 2 * count))
                speed = drive(system, jobs, concurrency=count).tokens_per_second
                curves.setdefault(system.name, []).append((float(count), speed))
                rows.append(
                    BenchRow.median(
                        "tokens_per_s_at_concurrency",
                        "1/s",
                        [speed],
                        model=bed.label,
                        workload=f"{CONSTANT}, {count} clients, {system.name}",
                    )
                )
    return rows, curves
