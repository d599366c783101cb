"""One page of results, made from the files that `--json` and the evaluations write."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError
from crayon.lab.eval import tables
from crayon.lab.eval.quantized import page as quantized_page
from crayon.lab.eval.quantized.run import BENCH as QUANTIZED
from crayon.lab.eval.whole import page as whole_page
from crayon.lab.eval.whole.run import BENCH as WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.lab.eval.tables import Record

TITLES = {
    WHOLE: "Customising and routing",
    QUANTIZED: "Quantizations of the device's model",
}
PLOTS = {WHOLE: "run-*.png", QUANTIZED: quantized_page.PLOT, "server": "server-*.png"}
_INTRODUCTION = (
    "Written by `tools/results_page.py` from what the commands wrote; under every table stand the command, the commit, "
    "the machine and the hashes of the models. How to run them: [evaluating.md](../how-to/evaluating.md)."
)


def results_page(files: Sequence[Path], images: Path, prefix: str, notes: str = "") -> str:
    """Return the page.

    Args:
        files: result files, in the order of the page.
        images: where the plots that lie beside them are copied to, and
        prefix: how the page calls that folder.
        notes: Markdown for its end: what did not work and stands in no file.

    Raises:
        InvalidRequestError: a file cannot be read, or is no result.
    """
    lines = ["# Results", "", _INTRODUCTION, ""]
    taken: set[str] = set()
    for file in files:
        record = _read(file)
        bench = str(record["bench"])
        title = TITLES.get(bench, f"`{bench if bench.startswith('eval') else f'bench {bench}'}`")
        lines += [f"## {title}", "", *_lower(_sections(record, _plots(bench, file.parent, images, prefix, taken)))]
    if notes.strip():
        lines += ["## What else did not work", "", notes.strip(), ""]
    return "\n".join(lines).rstrip() + "\n"


def _sections(record: Record, plots: Sequence[str]) -> list[str]:
    bench = record["bench"]
    if bench == WHOLE:
        return whole_page.sections(record, plots)
    if bench == QUANTIZED:
        return quantized_page.sections(record, plots)
    return _rows(record, plots)


def _rows(record: Record, plots: Sequence[str]) -> list[str]:
    """Return any other result as one table, what could not be measured, and its plots."""
    rows: list[Record] = record["rows"]
    body = []
    for row in rows:
        about = [row.get(name) for name in ("group", "task", "variant", "workload")]
        cells = [row["metric"], row.get("model", ""), ", ".join(str(part) for part in about if part)]
        body.append([*cells, row.get("against", ""), f"{tables.figure(row, 3)} {row['unit']}".strip()])
    lines = [*tables.table(["figure", "model", "of", "against", "value"], body, left=4), *tables.how(record)]
    for text in record.get("unmeasured", ()):
        lines += [f"- not measured: {text}"]
    for name in plots:
        lines += ["", f"![{name.rpartition('/')[2].removesuffix('.png')}]({name})"]
    return [*lines, ""]


def _plots(bench: str, folder: Path, images: Path, prefix: str, taken: set[str]) -> list[str]:
    """Copy the plots of a result; where another one's has the name already (`taken`), the folder's stands before it."""
    found = sorted(folder.glob(PLOTS[bench])) if bench in PLOTS else []
    names = []
    for path in found:
        images.mkdir(parents=True, exist_ok=True)
        name = f"{folder.name}-{path.name}" if path.name in taken else path.name
        taken.add(name)
        shutil.copyfile(path, images / name)
        names.append(f"{prefix}/{name}")
    return names


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if {"bench", "env", "rows"} <= set(record):
            return dict(record)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequestError("results", f"{file} cannot be read ({error})") from None
    raise InvalidRequestError("results", f"{file} is no result: it has no bench, env and rows")


def _lower(lines: Sequence[str]) -> list[str]:
    """Return lines with headings one level further down."""
    return [f"#{line}" if line.startswith("#") else line for line in lines]
