"""One trace from the device's question to the server's steps, in threads and across processes, without its text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once
from serving_tools import ScriptedEngine, Serving, server_process, until

import crayon
from crayon.cli.shared.traces import exporters
from crayon.engine import Started
from crayon.errors import ConfigError, CrayonError
from crayon.server.engines.echo import EchoEngine
from crayon.tracing import NO_SPAN, start_span

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

CANARY = "xyzzy"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before, once = trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
    trace.set_tracer_provider(provider)
    yield exporter
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = before, once


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_one_trace_from_the_question_to_the_steps(spans: InMemorySpanExporter) -> None:
    with (
        Serving(lambda: EchoEngine(delay=0.005)) as serving,
        crayon.Crayon(device=None, server=serving.address) as client,
    ):
        answer = client.ask(f"one two {CANARY}")
        until(lambda: "server.request" in by_name(spans))
    assert answer.text == f"one two {CANARY}"
    found = by_name(spans)
    assert set(found) == {"device.query", "rpc", "server.request", "queue", "prefill", "decode"}
    assert len({span.context.trace_id for span in found.values() if span.context}) == 1
    above = {"rpc": "device.query", "server.request": "rpc"} | dict.fromkeys(
        ("queue", "prefill", "decode"), "server.request"
    )
    for name, over in above.items():
        assert parent(found[name]) == found[over].context.span_id, name
    assert parent(found["device.query"]) is None
    steps = [attributes(found[name])["crayon.steps"] for name in ("prefill", "decode")]
    assert steps == [1, 2]
    request = attributes(found["server.request"])
    assert (request["rpc.method"], request["rpc.grpc.status_code"]) == ("Generate", "OK")
    assert request["gen_ai.usage.output_tokens"] == 3
    assert attributes(found["device.query"])["crayon.source"] == "server"
    assert CANARY not in "".join(span.to_json() for span in found.values())


async def test_the_async_client_is_traced_alike(spans: InMemorySpanExporter) -> None:
    with Serving(EchoEngine) as serving:
        async with crayon.AsyncCrayon(device=None, server=serving.address) as client:
            await client.ask("one two")
        until(lambda: "server.request" in by_name(spans))
    found = by_name(spans)
    assert parent(found["server.request"]) == found["rpc"].context.span_id
    assert parent(found["rpc"]) == found["device.query"].context.span_id


def test_a_failure_shows_its_kind_and_none_of_its_words(spans: InMemorySpanExporter) -> None:
    def broken() -> ScriptedEngine:
        return ScriptedEngine(Started("r", "scripted"), error=ValueError(f"cannot parse {CANARY}"))

    with Serving(broken) as serving, crayon.Crayon(device=None, server=serving.address) as client:
        with pytest.raises(CrayonError):
            client.ask(CANARY)
        until(lambda: "server.request" in by_name(spans))
    found = by_name(spans)
    assert attributes(found["server.request"])["error.type"] == "INTERNAL"
    assert attributes(found["rpc"])["error.type"] == "ServerError"
    assert all(not found[name].status.is_ok for name in ("device.query", "rpc", "server.request"))
    assert CANARY not in "".join(span.to_json() for span in found.values())


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 1000])
def test_a_wrong_header_begins_a_new_trace(spans: InMemorySpanExporter, header: str) -> None:
    span = start_span("server.request", parent=header)
    assert len(span.trace_id) == 32
    span.end()
    assert parent(by_name(spans)["server.request"]) is None


def test_it_goes_on_in_another_process(
    spans: InMemorySpanExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with server_process(tmp_path, "--port", "0") as running:
        with crayon.Crayon(device=None, server=running.address) as client:
            client.ask(f"one two {CANARY}")
        running.signal(15)
        code, said = running.end()
    assert code == 0, said
    here = f"0x{by_name(spans)['rpc'].context.trace_id:032x}"
    decoder = json.JSONDecoder()
    there, rest = [], said[said.index("{") :]
    while rest.startswith("{"):
        span, end = decoder.raw_decode(rest)
        there.append(span)
        rest = rest[end:].lstrip()
    assert {span["name"] for span in there} == {"server.request", "queue", "prefill", "decode"}
    assert {span["context"]["trace_id"] for span in there} == {here}
    assert CANARY not in said


def test_without_opentelemetry_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    span = start_span("x")
    assert span is NO_SPAN
    assert (span.trace_id, span.headers) == ("", ())
    with span.active():
        span.set({"a": 1})
    span.part("y", 0, 1)
    span.end(ValueError())


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, ()),
        ({"OTEL_TRACES_EXPORTER": "none"}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ("otlp", "console")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317", "OTEL_SDK_DISABLED": "true"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317", "OTEL_TRACES_EXPORTER": "none"}, ()),
    ],
)
def test_the_standard_variables_turn_traces_on(environ: dict[str, str], wanted: tuple[str, ...]) -> None:
    assert exporters(environ) == wanted


def test_an_unknown_exporter_is_named() -> None:
    with pytest.raises(ConfigError, match=r"OTEL_TRACES_EXPORTER.*knows otlp"):
        exporters({"OTEL_TRACES_EXPORTER": "jaeger"})
