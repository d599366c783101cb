"""All that watches one server, as its settings want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.errors import MissingExtraError
from crayon.server.observability.interceptor import ObservingInterceptor
from crayon.server.observability.observation import TokenPace
from crayon.server.observability.request_log import RequestLog
from crayon.server.observability.request_spans import RequestSpans
from crayon.tracing import tracing

if TYPE_CHECKING:
    from crayon.engine import Engine
    from crayon.server.config import ServeConfig
    from crayon.server.observability.endpoint import MetricsEndpoint
    from crayon.server.observability.metrics import RequestMetrics
    from crayon.server.observability.observation import Watcher


class Observing:
    """Metrics, log and traces; where none of them is wanted, calls are not looked at.

    Args:
        config: says which.

    Raises:
        MissingExtraError: metrics are wanted, and their library is not there.
    """

    def __init__(self, config: ServeConfig) -> None:
        pace = TokenPace()
        watchers: list[Watcher] = []
        # First, so that the log knows the trace.
        if tracing():
            watchers.append(RequestSpans())
        if config.log_requests:
            watchers.append(RequestLog())
        self._metrics: RequestMetrics | None = None
        self._endpoint: MetricsEndpoint | None = None
        if config.metrics_port is not None:
            # Not above: a server without metrics does not need the library.
            from importlib.metadata import version

            try:
                from crayon.server.observability.endpoint import MetricsEndpoint
                from crayon.server.observability.metrics import RequestMetrics
            except ModuleNotFoundError:
                raise MissingExtraError("server", "a port for metrics") from None

            self._metrics = RequestMetrics(pace, version("crayon-llm"))
            self._endpoint = MetricsEndpoint(config.metrics_host, config.metrics_port)
            watchers.append(self._metrics)
        self.interceptors = (ObservingInterceptor(watchers, pace),) if watchers else ()

    @property
    def address(self) -> str:
        """Where metrics are read; empty where there are none."""
        return self._endpoint.address if self._endpoint is not None else ""

    def start(self) -> None:
        """Open the metrics' port, if there is one.

        Raises:
            ConfigError: it cannot be listened on.
        """
        if self._endpoint is not None and self._metrics is not None:
            self._endpoint.start(self._metrics.registry)

    def serves(self, *, yes: bool) -> None:
        """Note what health says."""
        if self._metrics is not None:
            self._metrics.serves(yes=yes)

    def watch(self, engine: Engine) -> None:
        """Read an engine's numbers from now on."""
        if self._metrics is not None:
            self._metrics.watch(engine)

    def stop(self) -> None:
        """Close the metrics' port. Safe to call twice."""
        if self._endpoint is not None:
            self._endpoint.stop()
