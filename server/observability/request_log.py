"""A line in the log for every call: what a watcher may know of it, and never what was asked or answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crayon.server.observability.observation import Observation

REQUEST_LOG = "crayon.server.requests"
FIELDS = "fields"
"""The attribute of a log record that holds what is to be found by name."""
# What the server is to be blamed for; the rest is the client's doing, or nobody's.
_FAULTS = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}

log = logging.getLogger(REQUEST_LOG)


class RequestLog:
    """A watcher that writes a line where a call ends."""

    def began(self, seen: Observation) -> None:
        """Nothing is written before the end."""

    def ended(self, seen: Observation) -> None:
        """Write the line."""
        level = logging.ERROR if seen.code in _FAULTS else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra={FIELDS: fields(seen)})


def fields(seen: Observation) -> dict[str, object]:
    """Return what is known of a call; what is not known is left away. Durations are milliseconds."""
    found: dict[str, object | None] = {
        "request_id": seen.request_id or None,
        "method": seen.method,
        "code": seen.code,
        "client": seen.client,
        "request_bytes": seen.request_bytes or None,
        "model": seen.model or None,
        "duration_ms": _ms(seen.seconds),
        "ttft_ms": _ms(seen.first_token),
        "finish_reason": seen.finish_reason and seen.finish_reason.value,
        "trace_id": seen.span.trace_id or None if seen.span is not None else None,
        # Of an answer that broke off, as far as they were counted.
        "completion_tokens": seen.tokens if seen.usage is None and seen.first else None,
    }
    if seen.timings is not None:
        timings = seen.timings
        found |= {"queue_ms": timings.queue_ms, "prompt_ms": timings.prompt_ms, "decode_ms": timings.decode_ms}
    if seen.usage is not None:
        usage = seen.usage
        found |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in found.items()
        if value is not None
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
