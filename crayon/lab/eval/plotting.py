"""PNG plots, drawn with matplotlib's own objects: no window, no global state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crayon.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

DPI = 110


class Picture:
    """A row of plots in one file.

    Args:
        count: how many stand side by side.
        width, height: of each, in inches.

    Raises:
        MissingExtraError: the extra 'plots' is not installed.
    """

    def __init__(self, count: int = 1, width: float = 6.0, height: float = 4.2) -> None:
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise MissingExtraError("plots", "the plots of evaluations") from error
        self._figure = Figure(figsize=(width * count, height), layout="constrained")
        self.axes: list[Axes] = [self._figure.add_subplot(1, count, i + 1) for i in range(count)]
        for axes in self.axes:
            axes.grid(alpha=0.3)

    def save(self, path: Path) -> str:
        """Write the file and return its name."""
        self._figure.savefig(path, dpi=DPI)
        return path.name


def band(axes: Axes, xs: Sequence[float], rows: Sequence[dict[str, Any]], label: str, **style: Any) -> None:
    """Draw rows as a line with their 95 % intervals around it."""
    (line,) = axes.plot(xs, [row["value"] for row in rows], label=label, marker="o", markersize=3, **style)
    if all(row.get("ci_low") is not None for row in rows):
        axes.fill_between(
            xs, [row["ci_low"] for row in rows], [row["ci_high"] for row in rows], alpha=0.15, color=line.get_color()
        )
