"""Answers and embeddings on disk: what was computed once is never computed again, and a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Self

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_EVERY_S = 2.0


class AnswerCache:
    """Bytes by the hash of all that they depend on, in one SQLite file.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(path, timeout=30.0)
            self._table.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
            self._table.commit()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError("--out", f"{path} cannot be written ({error}); choose another folder") from None
        self._saved = time.monotonic()

    @property
    def folder(self) -> Path:
        """The folder that the file is in."""
        return self._path.parent

    @staticmethod
    def key(*parts: Any) -> str:
        """Return the key of anything that JSON can say."""
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()

    def get(self, key: str) -> bytes | None:
        """Return what is kept under a key, if anything."""
        row = self._table.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        """Keep bytes; they are safe on disk after a few seconds.

        Raises:
            ConfigError: the disk is full.
        """
        try:
            self._table.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, value))
            if time.monotonic() - self._saved > _EVERY_S:
                self.save()
        except sqlite3.Error as error:
            raise ConfigError("--out", f"{self._path} cannot be written ({error})") from None

    def save(self) -> None:
        """Write what was put."""
        self._table.commit()
        self._saved = time.monotonic()

    def close(self) -> None:
        """Save and close. Safe to call twice."""
        try:
            self._table.commit()
        except sqlite3.ProgrammingError:
            return  # closed already
        self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
