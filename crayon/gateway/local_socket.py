"""The socket file of a running gateway, by which this user's own commands find it and nobody else can."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from crayon.private_file import gateway_socket

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 1.0


class LocalSocket:
    """Listens on the user's socket file, where no other gateway does; `listener` is None then."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or gateway_socket()
        self.listener: socket.socket | None = None

    def listen(self) -> socket.socket | None:
        """Return the socket, or None: another gateway is there, or the place cannot be used.

        It is a help and no need: without it commands load their own models.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._answered():
                return None
            self.path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            before = os.umask(0o177)  # nobody else may connect, not even for a moment
            try:
                listener.bind(str(self.path))
            except OSError:
                listener.close()
                raise
            finally:
                os.umask(before)
        except OSError:  # a read-only or odd folder, or a path that is too long for a socket
            return None
        self.listener = listener
        return listener

    def close(self) -> None:
        """Take the file away."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _answered(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.settimeout(_PATIENCE_S)
            try:
                other.connect(str(self.path))
            except OSError:
                return False
            return True
