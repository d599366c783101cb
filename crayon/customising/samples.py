"""Sample files: JSONL (a record a line) and CSV or TSV (with a header)."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from crayon.customising.sample import Sample, as_samples, check_count, checked, from_record
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Sample", "as_samples", "read_samples"]

MAX_FILE_BYTES = 32 * 2**20
TABLES = {".csv": ",", ".tsv": "\t"}
# Between the choices in a cell.
CHOICE_MARK = "|"


def read_samples(path: str | os.PathLike[str]) -> tuple[Sample, ...]:
    """Return the samples of a file, without repetitions.

    A record has question and maybe answer and choices; or prompt and completion; or messages; or text alone. A file
    whose name ends with .csv or .tsv is a table with these columns (choices separated by "|"), any other is JSONL.

    Raises:
        InvalidRequestError: the file cannot be read, is no UTF-8 or too large, or a record is wrong: names its line.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidRequestError("samples", f"must be in a file, named by its path, not {type(path).__name__}")
    file = Path(path)
    text = _read(file)
    mark = TABLES.get(file.suffix.lower())
    records = _json_lines(text) if mark is None else _table(text, mark)
    found: list[tuple[str, Sample]] = []
    for line, record in records:
        place = f"line {line}"
        found += ((place, sample) for sample in from_record(place, record))
        check_count(len(found))
    return checked(found)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequestError("samples", f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise InvalidRequestError("samples", "holds a character that no path does") from None
    if len(data) > MAX_FILE_BYTES:
        raise InvalidRequestError(
            "samples", f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB; choose some samples"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidRequestError("samples", f"{path} is no UTF-8 text (line {line}); convert it first") from None


def _json_lines(text: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidRequestError(f"line {number}", "is no JSON; write one record a line") from None
        if not isinstance(record, dict | str):
            raise InvalidRequestError(f"line {number}", 'must be a record such as {"question": "...", "answer": "..."}')
        yield number, record


def _table(text: str, mark: str) -> Iterator[tuple[int, object]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        for row in reader:
            if None in row:
                raise InvalidRequestError(f"line {reader.line_num}", "has more cells than the header; quote the text")
            record: dict[str, object] = {
                key.strip(): cell for key, cell in row.items() if key and cell and cell.strip()
            }
            choices = record.get("choices")
            if isinstance(choices, str):
                record["choices"] = [part.strip() for part in choices.split(CHOICE_MARK)]
            if record:
                yield reader.line_num, record
    except csv.Error:
        raise InvalidRequestError(f"line {reader.line_num}", "is no row of a table; check its quotes") from None
