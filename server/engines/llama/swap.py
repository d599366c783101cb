"""What was taken out of the KV cache to make room: kept in memory, beyond a limit on the disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

from crayon.errors import EngineError

MEMORY_BYTES = 256 * 2**20


class SwapSpace:
    """States of sequences by request. For one thread.

    Args:
        memory_bytes: what may be kept in memory; more goes to files in a private temporary folder.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._limit = memory_bytes
        self._held: dict[str, bytes] = {}
        self._files: dict[str, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._bytes = 0
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._held) + len(self._files)

    def put(self, request_id: str, state: bytes) -> None:
        """Keep a state.

        Raises:
            EngineError: it fits neither in memory nor on the disk.
        """
        self.drop(request_id)
        if self._bytes + len(state) <= self._limit:
            self._held[request_id] = state
            self._bytes += len(state)
            return
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="crayon-kv-", ignore_cleanup_errors=True)
            self._numbers += 1
            path = Path(self._folder.name) / f"{self._numbers}.kv"  # never named after what a caller may choose
            path.write_bytes(state)
        except OSError as error:
            raise EngineError(f"no room to set a request's cache aside: {error.strerror}") from error
        self._files[request_id] = path

    def take(self, request_id: str) -> bytes:
        """Return a state and forget it.

        Raises:
            EngineError: it was never kept, or its file cannot be read.
        """
        state = self._held.get(request_id)
        if state is None:
            path = self._files.get(request_id)
            if path is None:
                raise EngineError("a request's cache was never set aside")
            try:
                state = path.read_bytes()
            except OSError as error:
                raise EngineError(f"a request's cache that was set aside is lost: {error.strerror}") from error
        self.drop(request_id)
        return state

    def drop(self, request_id: str) -> None:
        """Forget a state. Safe for one that is not kept."""
        state = self._held.pop(request_id, None)
        if state is not None:
            self._bytes -= len(state)
        path = self._files.pop(request_id, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._files.clear()
        self._bytes = 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
