"""Spans of OpenTelemetry in programs that use it, and nothing at all in others.

A program uses it once it has imported `opentelemetry` and given it a tracer provider; that is the program's own
business (`crayon` does it where OTEL_* variables say so). Spans hold numbers and names, never text of a query.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

    Attributes = Mapping[str, str | int | float | bool]

# The GenAI names are still in development upstream, so they stand here and not in a dependency.
OPERATION, CHAT = "gen_ai.operation.name", "chat"
MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
ERROR_TYPE = "error.type"
RPC_SYSTEM, RPC_METHOD, RPC_STATUS = "rpc.system", "rpc.method", "rpc.grpc.status_code"

DEVICE_QUERY, RPC, SERVER_REQUEST = "device.query", "rpc", "server.request"
QUEUE, PREFILL, DECODE = "queue", "prefill", "decode"
STEPS, SOURCE, REASON = "crayon.steps", "crayon.source", "crayon.reason"

INTERNAL, CLIENT, SERVER = "INTERNAL", "CLIENT", "SERVER"
_HEADER = "traceparent"


class Span:
    """A span, or nothing where nobody traces. Any thread may end it; only the first end counts."""

    __slots__ = ("_span",)

    def __init__(self, span: OtelSpan | None = None) -> None:
        self._span = span

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits; empty where nobody traces."""
        if self._span is None or not self._span.get_span_context().is_valid:
            return ""
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What another process needs to go on with the trace (W3C), as metadata of a call."""
        if self._span is None or not self._span.get_span_context().is_valid:
            return ()
        context = self._span.get_span_context()
        return ((_HEADER, f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"),)

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        if self._span is not None:
            self._span.set_attributes(attributes)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make spans that begin in this block, in this thread or task, its children."""
        if self._span is None:
            yield
            return
        from opentelemetry import trace

        # What goes wrong is said at the end, without the words of the exception.
        with trace.use_span(self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield

    def part(self, name: str, begin_ns: int, end_ns: int, attributes: Attributes | None = None) -> None:
        """Add a child that is over already; times are nanoseconds since 1970."""
        if self._span is not None:
            from opentelemetry import trace

            inside = trace.set_span_in_context(self._span)
            child = _tracer().start_span(name, inside, attributes=attributes, start_time=begin_ns)
            child.end(end_ns)

    def fail(self, kind: str) -> None:
        """Mark it as failed, by the kind of error only: an error's words may quote a query."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute(ERROR_TYPE, kind)
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self, error: BaseException | None = None) -> None:
        """End it, failed if there is an error. Safe to call again, and then without effect."""
        if self._span is not None and self._span.is_recording():
            if error is not None:
                self.fail(type(error).__name__)
            self._span.end()


NO_SPAN = Span()


def tracing() -> bool:
    """Whether this program uses OpenTelemetry."""
    return "opentelemetry.trace" in sys.modules


def start_span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: str = INTERNAL,
    parent: str | None = None,
    begin_ns: int | None = None,
) -> Span:
    """Begin a span, the child of the active one, or of the one in another process whose header `parent` is."""
    if not tracing():
        return NO_SPAN
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None if parent is None else TraceContextTextMapPropagator().extract({_HEADER: parent})
    span = _tracer().start_span(name, context, SpanKind[kind], attributes, start_time=begin_ns)
    return Span(span)


def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("crayon")
