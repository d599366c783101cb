"""Traces of this program, where OTEL_* variables ask for them."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from crayon.cli.shared import console
from crayon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace.export import SpanExporter

EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def turn_on_traces(environ: Mapping[str, str] = os.environ) -> None:
    """Give OpenTelemetry a tracer provider if the variables say so; it reads the others of them itself.

    Raises:
        ConfigError: they ask for an exporter or a protocol that is not there.
    """
    wanted = exporters(environ)
    if not wanted:
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        # They may be set for other programs on this machine.
        console.warning("OTEL_* variables ask for traces, which need the extra 'otel': pip install 'crayon-llm[otel]'")
        return
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    about: dict[str, Any] = {"service.version": version("crayon-llm")}
    if "OTEL_SERVICE_NAME" not in environ and "service.name" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        about["service.name"] = "crayon"
    provider = TracerProvider(resource=Resource.create(about))
    for name in wanted:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name, environ)))
    trace.set_tracer_provider(provider)


def exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the exporters that the variables ask for; none where nobody asked.

    Raises:
        ConfigError: one is not known here.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ()
    named = environ.get(EXPORTER, "")
    if not named and any(environ.get(name) for name in _ENDPOINTS):
        named = "otlp"
    found = tuple(name.strip() for name in named.split(",") if name.strip() not in {"", "none"})
    for name in found:
        if name not in {"otlp", "console"}:
            raise ConfigError(EXPORTER, f"knows otlp, console and none, not {name!r}", "environment")
    return found


def _exporter(name: str, environ: Mapping[str, str]) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)  # answers have standard output
    for variable in _PROTOCOLS:
        if environ.get(variable, "grpc") != "grpc":
            raise ConfigError(variable, f"knows grpc only, not {environ[variable]!r}", "environment")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
