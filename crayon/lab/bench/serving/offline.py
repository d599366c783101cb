"""All requests at once: how many tokens a second each system makes of them."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

from crayon.errors import ServerUnavailableError
from crayon.lab.bench.serving.client import drive
from crayon.lab.bench.serving.rows import Raced, fraction_row, geometric_mean_row, offline_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.lab.bench.report import BenchRow
    from crayon.lab.bench.serving.client import Run, TimedRequest
    from crayon.lab.bench.serving.systems import System
    from crayon.lab.bench.serving.testbed import ServingTestbed

OPENVINO = "OpenVINO GenAI, continuous batching"


def race_offline(bed: ServingTestbed) -> list[BenchRow]:
    """Race every workload of the plan; ours, llama-server's and OpenVINO's runs take turns on the same prompts."""
    ratios, others = [], []
    for name in bed.model_plan.workloads:
        workload = bed.workload(name)
        ours, llama = bed.ours(bed.best_ours(name)), bed.llama(bed.best_llama(name))
        bed.progress(f"{bed.label}: {name} offline, {workload.describe()}")
        with ExitStack() as stack:
            systems = [stack.enter_context(ours), stack.enter_context(llama)]
            beside: System | None = None
            note = ""
            if name in bed.model_plan.openvino:
                try:
                    beside, note = open_openvino(bed, stack)
                except ServerUnavailableError as error:
                    bed.unmeasured.append(f"offline_ratio_vs_openvino, {name}, {bed.label}: {error}")
                else:
                    systems.append(beside)
            for system in systems:
                bed.warm(system)
            runs = in_turn(systems, [bed.jobs(workload) for _ in range(bed.model_plan.runs)])
            told = ours.statistics()
        against = f"llama-server {llama.settings.describe()}"
        raced = Raced(workload, runs[0], runs[1], against, ours.settings.describe(), told)
        bed.rates[name] = max(rate(kind, len(workload.pairs)) for kind in runs[:2])
        ratios.append(offline_row(bed.label, raced, bed.optimum))
        others.append(fraction_row(bed.label, raced, bed.optimum))
        if beside is not None:
            raced = Raced(workload, runs[0], runs[2], OPENVINO + note, ours.settings.describe())
            others.append(offline_row(bed.label, raced, bed.optimum, "offline_ratio_vs_openvino"))
    return [*ratios, geometric_mean_row("offline_ratio_vs_llama_server", bed.label, ratios), *others]


def in_turn(systems: Sequence[System], batches: Sequence[list[TimedRequest]]) -> list[tuple[Run, ...]]:
    """Run each list of jobs on each system; who begins changes from list to list. Return the runs by system."""
    runs: list[list[Run]] = [[] for _ in systems]
    for turn, jobs in enumerate(batches):
        order = range(len(systems)) if turn % 2 == 0 else reversed(range(len(systems)))
        for at in order:
            runs[at].append(drive(systems[at], jobs))
    return [tuple(kind) for kind in runs]


def rate(runs: Sequence[Run], requests: int) -> float:
    """Return the median of requests a second."""
    return statistics.median(requests / run.seconds for run in runs)


def open_openvino(bed: ServingTestbed, stack: ExitStack) -> tuple[System, str]:
    """Start OpenVINO GenAI on the file that all run, or, where it cannot read that type, on the published one.

    Returns:
        The system, and what has to be said of its file.

    Raises:
        ServerUnavailableError: it can read neither.
    """
    settings = bed.settings(bed.workload(bed.model_plan.workloads[0]))
    try:
        return stack.enter_context(bed.openvino(settings, bed.path)), ""
    except ServerUnavailableError:
        if bed.source == bed.path:
            raise
        system = stack.enter_context(bed.openvino(settings, bed.source))
        return system, f" on {bed.source.name}, as it cannot read {bed.path.name}"
