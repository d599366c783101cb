"""The plots of a whole evaluation, drawn from its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.lab.eval import tables
from crayon.lab.eval.plotting import Picture, band
from crayon.lab.eval.results import WORKLOADS
from crayon.lab.eval.sample_curve import draw as draw_samples
from crayon.lab.eval.whole.costs import METRICS
from crayon.lab.eval.whole.page import GROUPS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.lab.bench.report import BenchRow
    from crayon.lab.eval.tables import Record

BARS = ("base", "fewshot", "all_data", "blend", "own")


def draw(record: Record, rows: Sequence[BenchRow], first: int, folder: Path, prefix: str = "run") -> list[str]:
    """Draw every plot that the record has figures for, and return the files' names.

    Raises:
        MissingExtraError: the extra 'plots' is not installed.
    """
    own: list[Record] = record["rows"]
    names = [_tasks(own, folder / f"{prefix}-tasks.png")]
    if draw_samples(rows, first, folder / f"{prefix}-samples.png"):
        names.append(f"{prefix}-samples.png")
    return [name for name in [*names, _shares(own, folder / f"{prefix}-shares.png"),
                              _costs(own, folder / f"{prefix}-costs.png")] if name]  # fmt: skip


def _tasks(rows: Sequence[Record], path: Path) -> str:
    workload = WORKLOADS["scored"]
    own = tables.select(rows, metric="accuracy", workload=workload)
    tasks = [(group, task) for group in GROUPS for task in tables.names(tables.select(own, group=group), "task")]
    variants = [name for name in BARS if tables.find(own, variant=name)]
    if not tasks:
        return ""
    picture = Picture(width=max(6.0, 0.75 * len(tasks)))
    axes, width = picture.axes[0], 0.8 / max(len(variants), 1)
    for i, variant in enumerate(variants):
        found = [tables.find(own, group=group, task=task, variant=variant) for group, task in tasks]
        places = [at + (i - len(variants) / 2) * width for at, row in enumerate(found) if row]
        values = [row for row in found if row]
        errors = [
            [row["value"] - row["ci_low"] for row in values],
            [row["ci_high"] - row["value"] for row in values],
        ]
        heights = [row["value"] for row in values]
        axes.bar(places, heights, width, label=variant, yerr=errors, error_kw={"elinewidth": 0.7})
    axes.set_xticks(range(len(tasks)), [task for _, task in tasks], rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("right answers, %")
    axes.set_title("before and after customising (scored option texts)")
    axes.legend(fontsize=8)
    return picture.save(path)


def _shares(rows: Sequence[Record], path: Path) -> str:
    own = tables.select(rows, metric="accuracy_at_share")
    groups = tables.names(own, "group")
    if not groups:
        return ""
    picture = Picture(len(groups))
    for axes, group in zip(picture.axes, groups, strict=True):
        of_group = tables.select(own, group=group)
        xs = [float(row["variant"].rstrip("%")) for row in of_group]
        band(axes, xs, of_group, "router's order", linewidth=2.0)
        ends = [of_group[0]["value"], of_group[-1]["value"]]
        axes.plot([xs[0], xs[-1]], ends, "--", color="grey", label="random sending")
        chosen = tables.find(rows, metric=f"{group}_server_share")
        if chosen:
            axes.axvline(chosen["value"], color="grey", linestyle=":", label="share that the router chose")
        axes.set_xlabel("sent to the server, %")
        axes.set_ylabel("right answers, %")
        axes.set_title(GROUPS[group], fontsize=9)
        axes.legend(fontsize=8)
    return picture.save(path)


def _costs(rows: Sequence[Record], path: Path) -> str:
    titles = ("server tokens a query", "bytes that leave the device, a query", "device seconds a query")
    if not tables.select(rows, metric="server_tokens_per_query"):
        return ""
    picture = Picture(3, width=4.8)
    for axes, metric, title in zip(picture.axes, METRICS, titles, strict=True):
        for group in tables.names(tables.select(rows, metric=metric), "group"):
            costs = tables.select(rows, metric=metric, group=group)
            right = {row["variant"]: row for row in tables.select(rows, metric="accuracy_at_share", group=group)}
            both = [(row, right[row["variant"]]) for row in costs if row["variant"] in right]
            axes.plot(
                [cost["value"] for cost, _ in both], [row["value"] for _, row in both], marker="o", markersize=3,
                label=group.replace("_", " "),
            )  # fmt: skip
        axes.set_xlabel(title)
        axes.set_ylabel("right answers, %")
        axes.legend(fontsize=8)
    return picture.save(path)
