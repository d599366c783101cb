"""The port that metrics are read at: HTTP, plain text, apart from the one that requests come to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from crayon.errors import ConfigError
from crayon.wire.address import join

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# Readers at a time, each with a thread. One more ends the one that is there longest.
MOST_READERS = 8
# For a request to come; a page is written at once.
_PATIENCE_S = 5.0


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: readers come every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each reader, and few of them."""

    daemon_threads = True

    def __init__(self, where: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._lock = threading.Lock()
        self._open: deque[socket.socket] = deque()
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        """Listen, without asking a name server for this machine's name."""
        super(WSGIServer, self).server_bind()
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a reader in, if need be in place of the one that is there longest."""
        with self._lock:
            self._open.append(request)
            oldest = self._open.popleft() if len(self._open) > MOST_READERS else None
        if oldest is not None:
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Let a reader go."""
        with self._lock, contextlib.suppress(ValueError):
            self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: readers may go as they like."""


class MetricsEndpoint:
    """Serves a registry from threads of its own, to a few readers at a time.

    Args:
        host: the address to listen on.
        port: 0 picks a free one.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = "127.0.0.1" if host == "localhost" else host
        self._port = port
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where it listens; empty while it does not."""
        return join(self._host, int(self._server.server_port)) if self._server is not None else ""

    def start(self, registry: CollectorRegistry) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        try:
            family, *_, where = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
            self._server = _Server((str(where[0]), int(where[1])), family)
        except OSError as error:
            taken = join(self._host, self._port)
            raise ConfigError("metrics_port", f"cannot listen on {taken}: {error.strerror or error}") from None
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="crayon-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more. Safe to call twice."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()
