"""The figures as a Markdown page, and the curves as PNG files."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.errors import MissingExtraError
from crayon.lab.eval.routing.summary import VARIANTS
from crayon.router import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.lab.bench.report import BenchRow
    from crayon.lab.eval.customize import EvalReport
    from crayon.lab.eval.routing.run import RouteMeasurement

    Values: TypeAlias = NDArray[np.float64]

GRID = np.linspace(0.0, 1.0, 101)


def markdown(report: EvalReport, plots: Sequence[str]) -> str:
    """Return the page: the promised figures first, then each user's accuracies."""
    figures = [row for row in report.rows if row.metric != "accuracy" and row.task is None]
    lines = ["# Device, server, router", ""]
    lines += ["| figure | users | value | 95 % interval | against |", "| --- | --- | ---: | --- | --- |"]
    lines += [
        f"| {row.metric}{_which(row)} | {row.group or ''} | {row.value:.3g} {row.unit} | {_interval(row)} | "
        f"{row.against or ''} |"
        for row in figures
    ]
    names = [name for name in VARIANTS if name != "random_50"]
    lines += ["", f"| user | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    accuracy = {(row.task, row.variant): row.value for row in report.rows if row.metric == "accuracy"}
    for task in dict.fromkeys(task for task, _ in accuracy):
        lines.append(f"| {task} | {' | '.join(f'{accuracy[task, name]:.1f}' for name in names)} |")
    lines += ["", *(f"![{name}]({name})" for name in plots)]
    return "\n".join(lines) + "\n"


def draw(measured: RouteMeasurement, folder: Path) -> list[str]:
    """Draw accuracy against the server's share, a file for each group of users, and return the files' names.

    Raises:
        MissingExtraError: the extra 'plots' is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("plots", "the curves of `crayon eval route`") from error
    names = []
    for group in dict.fromkeys(user.group for user, _ in measured.results):
        figure = Figure(figsize=(7.0, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for name, values in _curves(measured, group).items():
            axes.plot(100 * GRID, 100 * values, label=name, linewidth=2.0 if name == "router" else 1.2)
        shares = [100 * draw.sent.mean() for user, draws in measured.results if user.group == group for draw in draws]
        axes.axvline(float(np.mean(shares)), color="grey", linestyle=":", label="share that the router chose")
        axes.set_xlabel("sent to the server, %")
        axes.set_ylabel("right answers, %")
        axes.set_title(f"{group.replace('_', ' ')} users")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
        names.append(f"route-{group.replace('_', '-')}.png")
        figure.savefig(folder / names[-1], dpi=110)
    return names


def _curves(measured: RouteMeasurement, group: str) -> dict[str, Values]:
    """Return the mean curve of each way to choose, over a group's users and draws, on one grid of shares."""
    found: dict[str, list[Values]] = {}
    for user, draws in measured.results:
        for one in draws if user.group == group else ():
            own = {
                "oracle": metrics.oracle_curve(one.device, one.server),
                "router": metrics.curve(one.device, one.server, one.benefit),
                "query only": metrics.curve(one.device, one.server, -one.inside),
                "confidence only": metrics.curve(one.device, one.server, -one.sure),
                "random": metrics.random_curve(one.device, one.server),
            }
            for name, curve in own.items():
                found.setdefault(name, []).append(np.interp(GRID, curve.share, curve.accuracy))
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def _interval(row: BenchRow) -> str:
    return "" if row.ci_low is None or row.ci_high is None else f"[{row.ci_low:.1f}, {row.ci_high:.1f}]"


def _which(row: BenchRow) -> str:
    return f" ({row.variant})" if row.variant else ""
