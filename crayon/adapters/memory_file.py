"""Bytes that a library can open by a path, though they never lie on a disk."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Self

from crayon.errors import AdapterError


class MemoryFile:
    """A copy of `data` behind a path, until it is closed.

    On Linux it lies in memory and has no name; elsewhere it is a temporary file that only this user can read.

    Raises:
        AdapterError: no memory or disk space is left for it.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._fd: int | None = None
        self._named: Path | None = None
        try:
            if sys.platform == "linux":
                self._fd = os.memfd_create("crayon-adapter", os.MFD_CLOEXEC)
                self.path = Path(f"/proc/self/fd/{self._fd}")
            else:
                self._fd, name = tempfile.mkstemp(prefix="crayon-", suffix=".gguf")  # mode 0600
                self.path = self._named = Path(name)
            left = memoryview(data).cast("B")
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            self.close()
            raise AdapterError(f"the adapter cannot be put into memory ({error.strerror or error})") from None

    def close(self) -> None:
        """Free the memory, or remove the file. Safe to call twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        if self._named is not None:
            with contextlib.suppress(OSError):
                self._named.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
