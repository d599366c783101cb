"""Lines of a compressed file of data, read within bounds: such files come from outside."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_LINE = 1 << 20
MAX_LINES = 100_000


def read_lines(path: Path, field: str) -> Iterator[tuple[str, str]]:
    """Yield each line of a gzip file of UTF-8, and where it stands ("name:number", counted from 1).

    Args:
        path: the file.
        field: what an error names.

    Raises:
        InvalidRequestError: the file cannot be read, a line is longer than 1 MiB, or there are more than 100,000.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1):
                if number > MAX_LINES:
                    raise InvalidRequestError(field, f"{path.name} has more than {MAX_LINES} lines")
                if len(line) > MAX_LINE:
                    raise InvalidRequestError(field, f"{path.name}:{number} is longer than {MAX_LINE} characters")
                yield line, f"{path.name}:{number}"
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidRequestError(field, f"{path} cannot be read: {error}") from None
