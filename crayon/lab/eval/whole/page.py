"""The page of a whole evaluation, made from its record."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from crayon.lab.eval import tables
from crayon.lab.eval.results import WORKLOADS
from crayon.lab.eval.whole.costs import METRICS
from crayon.lab.eval.whole.shares import OWN, SIDES, TRAFFIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.lab.eval.tables import Record

GROUPS = {
    "in_pool": "seen: tasks that a member of the pool was trained on",
    "unseen": "unseen: near tasks that no member knows",
    "unseen_extra": "unseen, further items",
    "mixed": "users of two tasks",
    "far": "far from the pool",
}
_TABLE_SHARES = (0, 10, 25, 50, 75, 90, 100)
_GAINS = ("gain", "change", "gap")


def markdown(record: Record, plots: Sequence[str]) -> str:
    """Return the page."""
    lines = ["# What customising and routing are worth", ""]
    note = (
        "Right answers in per cent, or points between two of them; in brackets 95 % intervals, paired where two are "
        "compared (bootstrap over questions and draws of samples)."
    )
    lines += [note, ""]
    lines += sections(record, plots)
    lines += ["## Settings", "", *tables.settings(record), *tables.how(record)]
    return "\n".join(lines).rstrip() + "\n"


def sections(record: Record, plots: Sequence[str]) -> list[str]:
    """Return the lines of every part, from the second level of headings on."""
    rows: list[Record] = record["rows"]
    samples = functools.partial(_samples, first=record["settings"]["customize"]["samples"][0])
    lines: list[str] = []
    for title, part, plot in (
        ("Before and after customising", _customised, "tasks"),
        ("Against the number of samples", samples, "samples"),
        ("Device alone, server alone, together", _sides, ""),
        ("At every share of the server", _shares, "shares"),
        ("What it costs", _costs, "costs"),
    ):
        found = part(rows)
        if found:
            lines += [f"## {title}", "", *found, *tables.how(record)]
            lines += [f"![{title}]({name})\n" for name in plots if plot and plot in name]
    lines += ["## What did not work", "", *tables.lost(rows, _gain_name)]
    lines += [f"- left out: {name} ({why})" for name, why in record.get("missing", {}).items()]
    return [*lines, ""]


def _customised(rows: Sequence[Record]) -> list[str]:
    lines: list[str] = []
    for workload in WORKLOADS.values():
        own = [row for row in tables.select(rows, metric="accuracy", workload=workload) if "@" not in row["variant"]]
        variants = tables.names(own, "variant")
        if not own:
            continue
        body = []
        for group in tables.names(own, "group"):
            for task in tables.names(tables.select(own, group=group), "task"):
                of = {"group": group, "task": task}
                gain = tables.find(rows, metric="gain_of_user", workload=workload, **of)
                gain = gain or tables.find(rows, metric="far_change", workload=workload, **of)
                cells = [tables.figure(_bare(tables.find(own, variant=name, **of))) for name in variants]
                body.append([f"{task} ({group.replace('_', ' ')})", *cells, tables.figure(gain, sign=True)])
        lines += [f"**{workload}**", "", *tables.table(["user", *variants, "blend over base"], body), ""]
    return lines


def _samples(rows: Sequence[Record], first: int) -> list[str]:
    body: list[list[str]] = []
    sizes: list[str] = []
    for workload in WORKLOADS.values():
        for group in GROUPS:
            gains = [
                row for row in tables.select(rows, metric=f"{group}_gain", workload=workload, against="base")
                if str(row.get("variant", "")).startswith("blend")
            ]  # fmt: skip
            if len(gains) < 2:
                continue
            by_size = {int(row["variant"].partition("@")[2] or first): row for row in gains}
            sizes = [str(size) for size in sorted(by_size)]
            cells = [tables.figure(by_size[size], sign=True) for size in sorted(by_size)]
            body.append([GROUPS[group], workload, *cells])
    if not body:
        return []
    head = ["users", "scored by", *(f"{size} samples" for size in sizes)]
    return ["Points that the blend gains over the plain base.", "", *tables.table(head, body, left=2)]


def _sides(rows: Sequence[Record]) -> list[str]:
    lines: list[str] = []
    own = tables.select(rows, metric="side_accuracy")
    for workload in (TRAFFIC, OWN):
        body = []
        for group in tables.names(own, "group"):
            of_group = tables.select(own, group=group, workload=workload)
            for task in tables.names(of_group, "task"):
                cells = [tables.figure(_bare(tables.find(of_group, task=task, variant=side))) for side in SIDES]
                body.append([f"{task} ({group.replace('_', ' ')})", *cells])
        if body:
            lines += [f"**{workload}**", "", *tables.table(["user", *SIDES], body), ""]
    for group in tables.names(own, "group"):
        for other in ("better_side", "device", "server", "random"):
            row = tables.find(rows, metric=f"{group}_gain_vs_{other}")
            if row is not None:
                against = other.replace("_", " ")
                lines.append(f"- {GROUPS[group]}: router over {against} {tables.figure(row, sign=True)} points")
    return lines


def _shares(rows: Sequence[Record]) -> list[str]:
    lines: list[str] = []
    for group in tables.names(tables.select(rows, metric="accuracy_at_share"), "group"):
        body = []
        for share in _TABLE_SHARES:
            of = {"group": group, "variant": f"{share}%"}
            row = tables.find(rows, metric="accuracy_at_share", **of)
            if row is not None:
                gain = tables.find(rows, metric="gain_vs_random_at_share", **of)
                body.append([f"{share} %", tables.figure(row), tables.figure(gain, sign=True)])
        own = tables.find(rows, metric=f"{group}_server_share")
        chose = f"; the router itself sends {tables.figure(own)} %" if own else ""
        head = ["sent to the server", "right", "over random sending"]
        lines += [f"**{GROUPS[group]}**{chose}", "", *tables.table(head, body), ""]
    return lines


def _costs(rows: Sequence[Record]) -> list[str]:
    lines: list[str] = []
    titles = ("server tokens", "bytes that leave the device", "device seconds")
    for group in tables.names(tables.select(rows, metric="server_tokens_per_query"), "group"):
        body = []
        for share in _TABLE_SHARES:
            found = [tables.find(rows, metric=name, group=group, variant=f"{share}%") for name in METRICS]
            if found[0] is not None:
                digits = (1, 0, 4)
                body.append([f"{share} %", *(tables.figure(row, d) for row, d in zip(found, digits, strict=True))])
        lines += [f"**{GROUPS[group]}**, a query on average", "", *tables.table(["sent", *titles], body), ""]
    names = {
        "embed_seconds": "the scope gate's embedding",
        "device_answer_seconds": "an answer of the device",
        "server_answer_seconds": "an answer of the server",
    }
    for metric, name in names.items():
        row = tables.find(rows, metric=metric)
        if row is not None:
            lines.append(f"- {name}: {row['value']:.3f} s (median of {row['n']} queries)")
    return lines


def _gain_name(row: Record) -> str | None:
    name = str(row["metric"])
    if row.get("unit") != "points" or not any(part in name for part in _GAINS) or "oracle" in name or "perfect" in name:
        return None
    if name.startswith(("worst_", "far_worst", "mixed_gap")):
        return None
    parts = (row.get("group"), row.get("task"), row.get("workload"), row.get("variant"), row.get("against"))
    return f"{name} ({', '.join(str(part).replace('_', ' ') for part in parts if part)})"


def _bare(row: Record | None) -> Record | None:
    """Return a row without its interval: tables of many columns have room for none; the gains carry theirs."""
    return None if row is None else {"value": row["value"]}
