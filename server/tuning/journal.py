"""What a search has measured so far, on disk after each measurement: one that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Journal:
    """Measures each thing once.

    Args:
        path: where the measurements are kept; None keeps them in memory only.
        settings: what they depend on. Those made under others are forgotten.
        resume: whether to go on with what is there.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], *, resume: bool = True) -> None:
        self._path = path
        # As it will be read back: tuples become lists.
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._measured: dict[str, Any] = self._read() if resume else {}
        self.resumed = len(self._measured)

    def __len__(self) -> int:
        return len(self._measured)

    def __contains__(self, name: str) -> bool:
        return name in self._measured

    def measure(self, name: str, run: Callable[[], Any]) -> Any:
        """Return what `run` returned the first time, now or in an earlier run; it must be JSON.

        Raises:
            OSError: the disk refuses.
        """
        if name not in self._measured:
            self._measured[name] = json.loads(json.dumps(run()))
            self._write()
        return self._measured[name]

    def forget(self) -> None:
        """Remove the file: the search has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            raw = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}  # nothing there, or damaged: measuring anew costs minutes at most
        if not isinstance(raw, dict) or raw.get("settings") != self._settings:
            return {}
        measured = raw.get("measured")
        return measured if isinstance(measured, dict) else {}

    def _write(self) -> None:
        if self._path is not None:
            write_whole(self._path, {"settings": self._settings, "measured": self._measured})


def write_whole(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON in one step: a reader finds the old file or the new one.

    Raises:
        OSError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
