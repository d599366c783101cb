"""A file that holds a server's address while it serves, for scripts."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def announcing(path: Path | None) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Give two functions, to write the address into a file and to remove it; it is removed at the end in any case."""
    if path is None:
        yield (lambda _address: None), (lambda: None)
        return
    if not path.parent.is_dir():
        raise ConfigError("ready_file", f"there is no folder {path.parent}; make it first")

    def announce(address: str) -> None:
        # Renamed into place: who finds the file finds the whole address in it.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(f"{address}\n", encoding="utf-8")
        draft.replace(path)

    def withdraw() -> None:
        path.unlink(missing_ok=True)

    try:
        yield announce, withdraw
    finally:
        withdraw()
