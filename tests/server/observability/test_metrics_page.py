"""The metrics of a running server: names, numbers, and labels that no client can multiply."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from serving_tools import PATIENCE, ScriptedEngine, Serving, ask, until

from crayon.client import RemoteEngine
from crayon.engine import EncodeRequest, ScoreRequest, Started
from crayon.errors import ConfigError, CrayonError
from crayon.messages import Message
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.observability.endpoint import MOST_READERS, MetricsEndpoint
from crayon.server.observability.histogram import Tally
from crayon.server.observability.interceptor import METHODS
from crayon.server.observability.metric_catalogue import METRICS, OF_ENGINES, table
from crayon.server.observability.reading import fetch
from crayon.server.observability.stats import EngineStats
from crayon.server.serve import serve

if TYPE_CHECKING:
    from crayon.server.observability.reading import Page

ROOT = Path(__file__).resolve().parents[3]
FULL = EngineStats(
    running=2, waiting=3, kv_cache_usage=0.5, blends_loaded=1, slowdown=1.0, preemptions=4, restores=5,
    prefix_queries=60, prefix_hits=6, adapter_switches=7, steps=8, step_tokens=90, step_room=100,
    iteration_tokens=Tally((1.0, 10.0)),
)  # fmt: skip


class MeasuredEngine(EchoEngine):
    """Tells all there is to tell."""

    def stats(self) -> EngineStats:
        return FULL


def page(serving: Serving) -> Page:
    return fetch(serving.server.metrics_address)


def series(page: Page) -> set[str]:
    return {name for name, _ in page.values if not name.startswith("process_")}


def test_every_metric_of_the_table_is_on_the_page_and_no_other() -> None:
    with Serving(MeasuredEngine, metrics_port=0) as serving:
        found = page(serving)
    assert series(found) == {name for metric in METRICS for name in metric.series}
    assert {metric.stat for metric in OF_ENGINES} == set(EngineStats.__dataclass_fields__)
    assert found.get("crayon_num_requests_waiting") == 3
    assert found.get("crayon_serving") == 1


def test_an_engine_shows_only_what_it_has() -> None:
    with Serving(lambda: ScriptedEngine(Started("r", "scripted")), metrics_port=0) as serving:
        assert not {metric.name for metric in OF_ENGINES} & series(page(serving))


def test_there_is_no_port_where_none_was_wanted() -> None:
    with Serving(EchoEngine) as serving:
        assert serving.server.metrics_address == ""


def test_calls_are_counted_by_how_they_ended() -> None:
    with Serving(lambda: EchoEngine(delay=0.01, slots=1, context_tokens=300), metrics_port=0) as serving:
        remote = RemoteEngine(serving.address)
        list(remote.generate(ask("one two three")))
        remote.score(ScoreRequest(messages=(Message("user", "x y"),), continuations=("z",))).result(PATIENCE)
        remote.encode(EncodeRequest(texts=("a b",))).result(PATIENCE)
        running = remote.generate(ask("word " * 200))
        assert isinstance(next(running), Started)
        with pytest.raises(CrayonError):  # the slot is taken
            list(remote.generate(ask()))
        running.cancel()
        with pytest.raises(CrayonError):  # too long
            list(remote.generate(ask("word " * 400)))
        until(lambda: page(serving).get("crayon_requests_cancelled_total") == 1)
        found = page(serving)
        remote.close()
    assert found.get("crayon_requests_total", code="OK") == 3
    assert found.get("crayon_requests_total", method="Generate", code="INVALID_ARGUMENT") == 1
    assert found.get("crayon_requests_refused_total", reason="overloaded") == 1
    assert found.get("crayon_requests_cancelled_total", method="Generate") == 1
    assert found.by("crayon_request_success_total", "finished_reason") == {"stop": 1, "length": 0, "tool_calls": 0}
    assert found.get("crayon_prompt_tokens_total") == 3 + 3 + 2
    assert found.get("crayon_time_to_first_token_seconds_count") == 2
    assert (found.get("crayon_generation_tokens_total") or 0) >= 3
    assert found.get("crayon_request_generation_tokens_sum") == 3
    assert found.get("crayon_e2e_request_latency_seconds_count") == 1


def test_a_deadline_that_passed_is_no_cancellation() -> None:
    with Serving(lambda: EchoEngine(delay=30.0), metrics_port=0) as serving:
        remote = RemoteEngine(serving.address, timeout=0.3)
        with pytest.raises(CrayonError):
            list(remote.generate(ask()))
        until(lambda: page(serving).get("crayon_requests_deadline_exceeded_total") == 1)
        assert page(serving).get("crayon_requests_cancelled_total") == 0
        remote.close()


def test_who_is_not_let_in_is_counted_too(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"me:{'x' * 40}\n")
    tokens.chmod(0o600)
    with Serving(EchoEngine, metrics_port=0, tokens_file=tokens) as serving:
        with grpc.insecure_channel(serving.address) as channel:
            for method in ("Generate", "Made-up", "Other-one"):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(f"/crayon.v1.InferenceService/{method}")(b"", timeout=PATIENCE)
        found = page(serving)
    assert found.get("crayon_requests_refused_total", reason="unauthenticated") == 3
    assert found.get("crayon_requests_total", method="other") == 2


def test_no_client_makes_new_series() -> None:
    def shape(found: Page) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {key for key in found.values if not key[0].startswith("process_")}

    with Serving(EchoEngine, metrics_port=0) as serving:
        remote = RemoteEngine(serving.address)
        for number in range(3):
            list(remote.generate(ask(request_id=f"id-{number}")))
            with pytest.raises(CrayonError):
                list(remote.generate(ask(model=f"model-{number}", request_id=f"bad-{number}")))
        found = page(serving)
        with grpc.insecure_channel(serving.address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/crayon.v1.InferenceService/Made-up")(b"", timeout=PATIENCE)
        for number in range(3, 6):
            list(remote.generate(ask(request_id=f"id-{number}")))
            with pytest.raises(CrayonError):
                list(remote.generate(ask(model=f"model-{number}")))
        assert shape(page(serving)) == shape(found)
        remote.close()
    codes = {code.name for code in grpc.StatusCode}
    for _, labels in found.values:
        for name, value in labels:
            assert name != "method" or value in {*METHODS, "other"}
            assert name != "code" or value in codes


def test_a_port_in_use_is_named() -> None:
    with Serving(EchoEngine) as serving:
        config = ServeConfig(port=0, metrics_port=serving.port)
        with pytest.raises(ConfigError, match="metrics_port: cannot listen on"):
            asyncio.run(serve(config, EchoEngine))


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_wrong_port_is_refused_by_name(port: int) -> None:
    with pytest.raises(ConfigError, match="metrics_port"):
        ServeConfig(metrics_port=port)


@given(st.lists(st.floats(0, 20), max_size=30))
def test_a_tally_counts_as_the_library_does(values: list[float]) -> None:
    bounds = (0.5, 1.0, 2.5, 10.0)
    theirs = Histogram("x", "x", buckets=bounds, registry=CollectorRegistry())
    ours = Tally(bounds)
    for value in values:
        theirs.observe(value)
        ours.add(value)
    (family,) = theirs.collect()
    told = [(s.labels["le"], s.value) for s in family.samples if s.name == "x_bucket"]
    assert ours.buckets() == told
    assert ours.count == len(values)


# -- what is written about them


def test_the_dashboard_asks_for_what_there_is() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/crayon.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) > 20
    with Serving(MeasuredEngine, metrics_port=0) as serving:
        found = page(serving)
    there = {name for name, _ in found.values}
    labels = {name: {label for label, _ in has} for (name, has) in found.values}
    for expression in asked:
        names = re.findall(r"\b((?:crayon|process)_\w+)\{", expression)
        assert names, expression
        assert set(names) <= there, expression
        for by in re.findall(r"by \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", by)) <= labels[names[0]], expression
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_the_guide_has_the_table_of_metrics() -> None:
    assert table() in (ROOT / "docs/how-to/observability.md").read_text(encoding="utf-8")


def test_the_page_is_prometheus_text() -> None:
    with Serving(MeasuredEngine, metrics_port=0) as serving:
        url = f"http://{serving.server.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)


def test_slow_readers_are_few_and_keep_nobody_out() -> None:
    endpoint = MetricsEndpoint("127.0.0.1", 0)
    endpoint.start(CollectorRegistry())
    host, port = endpoint.address.rsplit(":", 1)
    before = threading.active_count()
    with contextlib.ExitStack() as stay:
        slow = [stay.enter_context(socket.create_connection((host, int(port)), PATIENCE)) for _ in range(50)]
        for each in slow:
            each.sendall(b"GET /metrics HTTP/1.1\r\n")
        with urllib.request.urlopen(f"http://{endpoint.address}/metrics", timeout=PATIENCE) as page:
            assert page.status == 200
        until(lambda: threading.active_count() <= before + MOST_READERS)
    endpoint.stop()
