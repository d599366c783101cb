"""Writes what the tests of faults have counted into the table of a page."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from fault_tools import ENDED, FLAT, NOTHING_LEFT, WORKS

from crayon.machine import inspect_machine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fault_tools import Fault

# What `aftermath` asserts; the page says it once.
ALL = f"{ENDED}; {NOTHING_LEFT}; {WORKS}; {FLAT}"
BEGIN, END = "<!-- faults: written by make test-faults -->", "<!-- end of faults -->"


def table(faults: Iterable[Fault]) -> str:
    """Return the table, with the day and the machine above it."""
    machine, today = inspect_machine(), dt.datetime.now(dt.UTC).date()
    lines = [
        f"Run of {today}, {machine.cpu}, {machine.usable_cores} cores.",
        "",
        "| fault | how it is injected | what the caller sees | sent | answered | statuses | lost | asserted after |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | --- |",
    ]
    for fault in sorted(faults, key=lambda fault: fault.name):
        tally = fault.tally
        statuses = ", ".join(f"{count:,} {name}" for name, count in sorted(tally.statuses.items())) or "-"
        memory = "" if fault.growth_mib is None else f" ({max(fault.growth_mib, 0.0):.1f})"
        checked = "; ".join(fault.checked).replace(ALL, "all") + memory
        cells = (fault.name, fault.injected, fault.seen, f"{tally.sent:,}", f"{tally.answered:,}", statuses)
        lines.append(f"| {' | '.join(cells)} | {tally.lost} | {checked} |")
    return "\n".join(lines)


def write_table(page: str, faults: Iterable[Fault]) -> None:
    """Replace what stands between the marks in a page."""
    path = Path(page)
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{table(faults)}\n\n{END}{after}", encoding="utf-8")
