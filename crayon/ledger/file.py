"""The ledger's file: lines that only its owner may read, of bounded size, written by many processes at once."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crayon.errors import ConfigError
from crayon.ledger.entry import entry_of, line_of
from crayon.private_file import state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.ledger.entry import Entry

logger = logging.getLogger("crayon.ledger")

FILE = "ledger.jsonl"
MAX_BYTES = 2**20
"""Of one file: some 5,000 entries."""
OLDER = 4
"""Files kept besides it: ledger.1.jsonl is the newest of them; the oldest goes."""
_MAX_LINE = 2**16


@dataclass(frozen=True, slots=True)
class Found:
    """What the ledger holds, the oldest first, and how many of its lines could not be read."""

    entries: tuple[Entry, ...]
    damaged: int = 0


class Ledger:
    """The one ledger of this user. Usable from any thread and any process.

    Args:
        folder: where it is kept; None: `CRAYON_STATE_DIR`, else the user's folder for what programs remember.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.path = (state_folder() if folder is None else Path(folder)) / FILE
        self._lock = threading.Lock()
        self._told = False

    def note(self, entry: Entry) -> None:
        """Write an entry at the end. It never raises: an answer is not lost since its ledger cannot be kept.

        What could not be written is said once, by a warning of the logger crayon.ledger.
        """
        try:
            with self._lock:
                self._append(line_of(entry))
        except OSError as error:
            if not self._told:
                self._told = True
                logger.warning("%s cannot be written, so the ledger is not complete: %s", self.path, error)

    def read(self, since: float = 0.0) -> Found:
        """Return the entries from a time on, in seconds since 1970.

        Raises:
            ConfigError: a file cannot be read.
        """
        entries: list[Entry] = []
        damaged = 0
        for line in self._lines():
            try:
                entry = entry_of(line)
            except (ValueError, RecursionError):
                damaged += 1
                continue
            if entry.at >= since:
                entries.append(entry)
        return Found(tuple(entries), damaged)

    def clear(self) -> None:
        """Delete all that the ledger holds.

        Raises:
            ConfigError: a file cannot be deleted.
        """
        try:
            with self._lock:
                for path in self.files():
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error, "deleted") from None

    def files(self) -> tuple[Path, ...]:
        """Return the paths of its files, the oldest first; none of them need be there."""
        return (*(self._older(number) for number in range(OLDER, 0, -1)), self.path)

    def _lines(self) -> Iterator[bytes]:
        for path in self.files():
            try:
                with path.open("rb") as file:
                    # Bounded: the file may be anybody's by now.
                    data = file.read(MAX_BYTES + _MAX_LINE)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._unusable(error, "read") from None
            yield from filter(None, data.split(b"\n"))

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o600)
            try:
                with contextlib.suppress(OSError):  # a file system that knows no locks goes without
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                here = os.fstat(descriptor)
                if not self._is_still(here):
                    continue  # another process began a new file meanwhile
                if here.st_size and here.st_size + len(line) > MAX_BYTES:
                    self._make_room()
                    continue
                if here.st_size and os.pread(descriptor, 1, here.st_size - 1) != b"\n":
                    line = b"\n" + line  # the last one was cut, by a crash or a full disk
                if os.write(descriptor, line) < len(line):
                    raise OSError(f"{self.path}: no space left")
            finally:
                os.close(descriptor)
            return

    def _is_still(self, opened: os.stat_result) -> bool:
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        return (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino)

    def _make_room(self) -> None:
        """Begin a new file; the oldest one goes. The file that is renamed is locked."""
        for number in range(OLDER - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._older(number).replace(self._older(number + 1))
        self.path.replace(self._older(1))

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"ledger.{number}.jsonl")

    def _unusable(self, error: OSError, what: str) -> ConfigError:
        return ConfigError("ledger", f"{error.filename or self.path} cannot be {what}: {error.strerror or error}")
