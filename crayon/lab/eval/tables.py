"""Result files as Markdown: tables, figures with their intervals, and the line that says how they were made.

A page is made from the record that `--json` prints alone, so that it can be written again later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Record: TypeAlias = "dict[str, Any]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a table whose first `left` columns are texts and all others numbers."""
    marks = ["---" if i < left else "---:" for i in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]


def figure(row: Record | None, digits: int = 1, *, sign: bool = False) -> str:
    """Return a value with its interval, or "" where there is none."""
    if row is None:
        return ""
    form = f"{'+' if sign else ''}.{digits}f"
    value = _plain(f"{row['value']:{form}}")
    if row.get("ci_low") is None:
        return value
    return f"{value} [{_plain(format(row['ci_low'], form))}, {_plain(format(row['ci_high'], form))}]"


def find(rows: Iterable[Record], **wanted: Any) -> Record | None:
    """Return the first row with these values."""
    return next(iter(select(rows, **wanted)), None)


def select(rows: Iterable[Record], **wanted: Any) -> list[Record]:
    """Return the rows with these values; None stands for a name that is not given."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def names(rows: Iterable[Record], key: str) -> list[str]:
    """Return the values of one name, each once, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows if row.get(key) is not None))


def how(record: Record) -> list[str]:
    """Return the line that goes under every table: command, commit, versions, machine, models."""
    made, env = record.get("made", {}), record["env"]
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    models = ", ".join(f"{name} ({sha256[:12]})" for name, sha256 in env["models"].items())
    parts = [
        f"`{made['command']}`" if made.get("command") else f"`{record['bench']}`",
        f"commit {made['commit']}" if made.get("commit") else "",
        f"begun {made['began']}, {duration(made['seconds'])}" if made.get("began") else "",
        f"{env['cpu']}, {env['cores']} cores, {env['memory'] / 2**30:.0f} GiB",
        versions,
        models,
    ]
    return ["", f"*{'; '.join(part for part in parts if part)}.*", ""]


def settings(record: Record) -> list[str]:
    """Return the settings of a run as a block that can be opened."""
    lines = [f"{name} = {value!r}" for name, value in _flat(record.get("settings", {}))]
    return ["```text", *lines, "```"] if lines else []


def lost(rows: Iterable[Record], names: Callable[[Record], str | None]) -> list[str]:
    """Return what did not work: gains that are below 0 with their whole interval, and those that may be 0.

    Args:
        rows: all rows.
        names: what a row is called where it is a gain, else None.
    """
    found = [(name, row) for row in rows if (name := names(row)) is not None and row.get("ci_low") is not None]
    worse = [f"{name}: {figure(row, sign=True)} {row['unit']}" for name, row in found if row["ci_high"] < 0]
    unsure = [
        f"{name}: {figure(row, sign=True)} {row['unit']}" for name, row in found if row["ci_low"] <= 0 <= row["ci_high"]
    ]
    lines = []
    if worse:
        lines += ["Shown to be worse:", "", *(f"- {line}" for line in worse), ""]
    if unsure:
        lines += ["Not shown either way (the interval holds 0):", "", *(f"- {line}" for line in unsure), ""]
    return lines or ["Nothing measured here came out worse.", ""]


def duration(seconds: float) -> str:
    """Return a time as one reads it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [pair for name, inner in value.items() for pair in _flat(inner, f"{prefix}.{name}" if prefix else str(name))]


def _plain(text: str) -> str:
    """Return a number without a sign before nothing but zeros."""
    return text.lstrip("+-") if not text.strip("+-0.") else text
