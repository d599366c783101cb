"""From runs to the rows of the report: ratios are ours over theirs, from pairs run in turn."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.lab.bench.report import BenchRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crayon.lab.bench.serving.client import Run
    from crayon.lab.bench.serving.online import HighestRate
    from crayon.lab.bench.serving.optimum import Optimum
    from crayon.lab.bench.serving.workloads import Workload


@dataclass(frozen=True, slots=True)
class Raced:
    """Runs of the same jobs on two systems, in turn.

    Args:
        workload: what was asked.
        ours, theirs: runs, one of each a pair.
        against: the other system with its settings.
        settings: our own.
        statistics: what our server says of its steps.
    """

    workload: Workload
    ours: tuple[Run, ...]
    theirs: tuple[Run, ...]
    against: str
    settings: str = ""
    statistics: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """Throughput, ours over theirs, a pair."""
        return [a.tokens_per_second / b.tokens_per_second for a, b in zip(self.ours, self.theirs, strict=True)]


def speed(runs: Sequence[Run]) -> float:
    """Return the median throughput."""
    return statistics.median(run.tokens_per_second for run in runs)


def share(optimum: Optimum, runs: Sequence[Run]) -> float:
    """Return the median share of the optimum at saturation."""
    return statistics.median(optimum.saturated_fraction(run) for run in runs)


def offline_row(model: str, raced: Raced, optimum: Optimum, metric: str = "offline_ratio_vs_llama_server") -> BenchRow:
    """Return the row of one offline race, with the share of the optimum that both reach."""
    client = statistics.median(run.client_share for run in (*raced.ours, *raced.theirs))
    note = (
        f"{speed(raced.ours):.0f} against {speed(raced.theirs):.0f} tokens/s, "
        f"{share(optimum, raced.ours):.2f} against {share(optimum, raced.theirs):.2f} of Opt_engine; "
        f"ours with {raced.settings}; the client kept {client:.2f} cores busy; {raced.workload.describe()}"
    )
    return BenchRow.median(
        metric, "ratio", raced.ratios, model=model, workload=raced.workload.name, against=raced.against, note=note
    )


def fraction_row(model: str, raced: Raced, optimum: Optimum) -> BenchRow:
    """Return our share of the optimum, and where the rest went as far as the server tells."""
    whole = statistics.median(optimum.fraction(run) for run in raced.ours)
    lost = ", ".join(f"{name} {value:.3f}" for name, value in raced.statistics.items())
    return BenchRow.median(
        "fraction_of_opt_engine",
        "ratio",
        [optimum.saturated_fraction(run) for run in raced.ours],
        model=model,
        workload=raced.workload.name,
        against=f"the bare library: {optimum.prefill_rate:.0f} tokens/s in graphs of {optimum.ubatch}",
        note=f"{whole:.3f} with the start and the end of the run; {lost or 'the server does not tell its losses'}",
    )


def geometric_mean_row(metric: str, model: str, rows: Sequence[BenchRow]) -> BenchRow:
    """Return the geometric mean of rows of one metric; its runs are the rows' values."""
    values = [row.value for row in rows]
    mean = math.exp(sum(math.log(value) for value in values) / len(values))
    name = f"geometric mean of {len(values)} workloads"
    return BenchRow(
        metric, mean, "ratio", tuple(values), model, name, rows[0].against and rows[0].against.split(" ")[0]
    )


def online_rows(
    model: str, workload: str, ours: HighestRate, theirs: HighestRate, against: str, own: str
) -> list[BenchRow]:
    """Return the two rates and their ratio.

    Where the peer keeps the bounds at no rate, the lowest that was tried stands in for its rate, and the note says so.
    """
    lowest = min(verdict.rate for verdict in theirs.verdicts)
    note = f"{ours.rate:.2f} against {theirs.rate:.2f} requests/s"
    if not theirs.rate:
        note = f"{ours.rate:.2f} requests/s; the peer keeps the bounds at no rate, so {lowest:.2f} stands in for its"
    ratio = ours.rate / (theirs.rate or lowest)
    rows = [
        BenchRow.median(
            "online_rate_ratio_vs_llama_server",
            "ratio",
            [ratio],
            model=model,
            workload=workload,
            against=against,
            note=note,
        )
    ]
    for name, found in ((own, ours), (against, theirs)):
        best = found.best
        said = "no rate that was tried keeps the bounds"
        if best is not None:
            said = f"p95 between tokens {1000 * best.gap:.0f} ms, to the first token {best.first:.2f} s"
        if found.next is not None:
            said += f"; at {found.next.rate:.2f}: {found.next.faults}"
        rows.append(
            BenchRow.median(
                "online_requests_per_s",
                "1/s",
                [found.rate],
                model=model,
                workload=f"{workload}, {name}",
                note=said,
            )
        )
    return rows
