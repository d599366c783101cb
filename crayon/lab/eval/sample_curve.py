"""Accuracy against the number of a user's samples, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import MissingExtraError
from crayon.lab.eval.variants import BLEND

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.lab.bench.report import BenchRow

TITLES = {"in_pool": "tasks in the pool", "unseen": "near tasks that no member knows", "mixed": "users of two tasks"}


def sample_curve(rows: Sequence[BenchRow], first: int) -> dict[tuple[str, str], dict[int, float]]:
    """Return the mean accuracy in points by number of samples (0: the plain base), for each group and workload.

    Args:
        rows: of the evaluation.
        first: how many samples the variant without a number had.
    """
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        if row.metric != "accuracy" or row.variant is None or row.group not in TITLES:
            continue
        name, _, count = row.variant.partition("@")
        if name == "base":
            size = 0
        elif name == BLEND:
            size = int(count or first)
        else:
            continue
        found.setdefault((row.group, row.workload or ""), {}).setdefault(size, []).append(row.value)
    return {
        key: {size: float(np.mean(values)) for size, values in sorted(sizes.items())}
        for key, sizes in found.items()
        if len(sizes) > 2
    }


def draw(rows: Sequence[BenchRow], first: int, path: Path) -> bool:
    """Draw the curves into a PNG file; False where the evaluation had one number of samples only.

    Raises:
        MissingExtraError: the extra 'plots' is not installed.
    """
    curves = sample_curve(rows, first)
    if not curves:
        return False
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("plots", "the curve of `crayon eval customize`") from error
    workloads = list(dict.fromkeys(workload for _, workload in curves))
    figure = Figure(figsize=(4.6 * len(workloads), 3.8), layout="constrained")
    for place, workload in enumerate(workloads):
        axes = figure.add_subplot(1, len(workloads), place + 1)
        for (group, own), points in curves.items():
            if own == workload:
                # Equal steps: 0, 1, 4, 16 and 64 have no common scale.
                axes.plot([str(size) for size in points], list(points.values()), marker="o", label=TITLES[group])
        axes.set_title(workload)
        axes.set_xlabel("samples of the user (0: plain base)")
        axes.set_ylabel("right answers, %")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    return True
