"""How the settings of `crayon serve` that say what it shows of itself become a server's configuration, and its log."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from crayon.cli.shared import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.config import ServeSettings
    from crayon.config.serve import LogLines


def observe_config(settings: ServeSettings) -> dict[str, Any]:
    """Return the keywords of `ServeConfig` that say what a server shows of itself."""
    return {
        "metrics_host": settings.metrics_host,
        "metrics_port": settings.metrics_port,
        "log_requests": settings.log_format is not None,
    }


@contextmanager
def log_lines(kind: LogLines | None) -> Iterator[None]:
    """Write the log in this format while the block runs, and with JSON what the program says of itself, too."""
    if kind is None:
        yield
        return
    from crayon.server.observability.log_lines import LogFormat, formatter
    from crayon.server.observability.request_log import REQUEST_LOG

    chosen = LogFormat(kind)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter(chosen))
    said = logging.getLogger("crayon.cli.serve.command")
    for log in (said, logging.getLogger(REQUEST_LOG)):
        log.setLevel(logging.INFO)
    if chosen is LogFormat.JSON:
        with console.messages_to(said):
            yield
    else:
        yield
