"""The port that metrics are read at: HTTP, plain text, apart from the one that requests come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import start_http_server

from crayon.errors import ConfigError
from crayon.wire.address import join

if TYPE_CHECKING:
    import threading
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry


class MetricsEndpoint:
    """Serves a registry from threads of its own.

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
            self._server, self._thread = start_http_server(self._port, self._host, registry)
        except OSError as error:
            where = join(self._host, self._port)
            raise ConfigError("metrics_port", f"cannot listen on {where}: {error.strerror or error}") from None

    def stop(self) -> None:
        """Listen no more. Safe to call twice."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()
