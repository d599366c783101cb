"""The page and the plot of quantizations, made from the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.lab.eval import tables
from crayon.lab.eval.plotting import Picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.lab.eval.tables import Record

PLOT = "device-pareto.png"


def markdown(record: Record, plots: Sequence[str]) -> str:
    """Return the page."""
    lines = ["# Quantizations of the device's model", "", *sections(record, plots)]
    lines += ["## Settings", "", *tables.settings(record), *tables.how(record)]
    return "\n".join(lines).rstrip() + "\n"


def sections(record: Record, plots: Sequence[str]) -> list[str]:
    """Return the lines of every part, from the second level of headings on."""
    rows: list[Record] = record["rows"]
    advice = record.get("recommended") or {}
    types = tables.names(rows, "variant")
    lines = ["## Quality, speed and size", ""]
    if advice:
        lines += [f"**Recommended: {advice['type'] or 'none'}**: {advice['reason']}.", ""]
    lines += [*_overview(rows, types), *tables.how(record)]
    lines += [f"![accuracy and perplexity against speed and memory]({name})\n" for name in plots]
    lines += ["## Accuracy by task", "", *_tasks(rows, types), *tables.how(record)]
    safety = _safety(rows, types)
    if safety:
        note = (
            "Accuracy on BBQ and TruthfulQA, and BBQ's bias score: 0 is even, 100 all stereotype, -100 all against it; "
            "in ambiguous contexts weighted by the share of wrong answers."
        )
        lines += ["## Trust and safety", "", note, "", *safety, *tables.how(record)]
    return [*lines, "## What did not work", "", *tables.lost(rows, _loss_name)]


def _overview(rows: Sequence[Record], types: Sequence[str]) -> list[str]:
    columns = (
        ("accuracy", "task_accuracy", 1),
        ("over the published file", "task_accuracy_vs_source", 1),
        ("perplexity", "perplexity", 2),
        ("ratio", "perplexity_ratio", 3),
        ("prefill, tokens/s", "prefill_rate", 0),
        ("decode, tokens/s", "decode_rate", 0),
        ("first token, ms", "ttft", 0),
        ("load, s", "load_seconds", 2),
        ("peak memory, MiB", "peak_memory", 0),
        ("file, MiB", "file_size", 0),
    )
    body = []
    for name in types:
        front = tables.find(rows, metric="on_pareto_front", variant=name)
        mark = f"{name} *" if front and front["value"] else name
        cells = [
            tables.figure(tables.find(rows, metric=metric, variant=name), digits, sign="over" in title)
            for title, metric, digits in columns
        ]
        body.append([mark, *cells])
    lines = tables.table(["type", *(title for title, _, _ in columns)], body)
    return [*lines, "", "\\* no other type beats it in turn, memory or perplexity without losing in another."]


def _tasks(rows: Sequence[Record], types: Sequence[str]) -> list[str]:
    own = tables.select(rows, metric="accuracy")
    body = [
        [task, *(tables.figure(tables.find(own, task=task, variant=name)) for name in types)]
        for task in tables.names(own, "task")
    ]
    return tables.table(["task", *types], body)


def _safety(rows: Sequence[Record], types: Sequence[str]) -> list[str]:
    metrics = [m for m in tables.names(rows, "metric") if m.startswith(("bbq_", "truthfulqa_"))]
    body = [
        [m.replace("_", " "), *(tables.figure(tables.find(rows, metric=m, variant=name)) for name in types)]
        for m in metrics
    ]
    return tables.table(["measure", *types], body) if body else []


def _loss_name(row: Record) -> str | None:
    if row["metric"] != "task_accuracy_vs_source":
        return None
    return f"accuracy of {row['variant']} over the published file"


def draw(record: Record, path: Path) -> str:
    """Draw accuracy against speed, and perplexity against memory, and return the file's name.

    Raises:
        MissingExtraError: the extra 'plots' is not installed.
    """
    rows: list[Record] = record["rows"]
    picture = Picture(2, width=5.6)
    pairs = (
        ("decode_rate", "answer tokens a second", "task_accuracy", "right answers, %"),
        ("peak_memory", "peak memory, MiB", "perplexity", "perplexity (lower is better)"),
    )
    for axes, (x, x_title, y, y_title) in zip(picture.axes, pairs, strict=True):
        for name in tables.names(rows, "variant"):
            across = tables.find(rows, metric=x, variant=name)
            up = tables.find(rows, metric=y, variant=name)
            front = tables.find(rows, metric="on_pareto_front", variant=name)
            if across is None or up is None:
                continue
            error = None
            if up.get("ci_low") is not None:
                error = [[up["value"] - up["ci_low"]], [up["ci_high"] - up["value"]]]
            style = "o" if front and front["value"] else "x"
            axes.errorbar([across["value"]], [up["value"]], yerr=error, fmt=style, elinewidth=0.7, label=name)
            axes.annotate(name, (across["value"], up["value"]), fontsize=8, xytext=(4, 4), textcoords="offset points")
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
    picture.axes[0].set_title("circles: on the Pareto front", fontsize=9)
    return picture.save(path)
