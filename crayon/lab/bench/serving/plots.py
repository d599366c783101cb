"""The race as pictures: throughput against clients, latency against the rate of arrivals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.errors import MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from crayon.lab.bench.serving.race_online import Online

THROUGHPUT, LATENCY = "server-throughput.png", "server-latency.png"
Curve = list[tuple[float, float]]


@dataclass(slots=True)
class Curves:
    """What is drawn; titles name model and workload.

    Args:
        throughput: tokens a second by clients, by system, by title.
        latency: searches for a rate, by title.
    """

    throughput: dict[str, dict[str, Curve]] = field(default_factory=dict)
    latency: dict[str, Online] = field(default_factory=dict)


def draw(curves: Curves, folder: Path) -> list[Path]:
    """Draw what there is into PNG files in `folder`; return those that were written.

    Raises:
        MissingExtraError: the extra 'plots' is not installed.
    """
    check_plots()
    written = []
    if curves.throughput:
        figure, axes = _figure(len(curves.throughput))
        for (title, systems), at in zip(curves.throughput.items(), axes, strict=True):
            for system, points in systems.items():
                at.plot(*zip(*points, strict=True), marker="o", label=system)
            _finish(at, title, "clients at once", "tokens/s")
        written.append(_save(figure, folder / THROUGHPUT))
    if curves.latency:
        figure, axes = _figure(len(curves.latency))
        for (title, online), at in zip(curves.latency.items(), axes, strict=True):
            for system, found in (("crayon", online.ours), (online.against, online.theirs)):
                points = sorted((v.rate, 1000 * v.latency) for v in found.verdicts if v.latency)
                if points:
                    at.plot(*zip(*points, strict=True), marker="o", label=system)
            _finish(at, title, "requests/s", "p95 latency per token, ms")
        written.append(_save(figure, folder / LATENCY))
    return written


def check_plots() -> None:
    """Find out before the race whether it can be drawn after it.

    Raises:
        MissingExtraError: the extra 'plots' is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        raise MissingExtraError("plots", "`crayon bench server --out`") from error


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * panels, 3.8), layout="constrained")
    return figure, [figure.add_subplot(1, panels, place + 1) for place in range(panels)]


def _finish(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
