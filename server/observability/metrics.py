"""Metrics of the calls, kept by the client library; and what is counted at every token, read when somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from crayon.completion import FinishReason
from crayon.server.observability import metric_catalogue as names
from crayon.server.observability.engine_metrics import EngineMetrics
from crayon.server.observability.interceptor import METHODS
from crayon.server.observability.metric_catalogue import MetricKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric as Family

    from crayon.engine import Engine
    from crayon.server.observability.metric_catalogue import Metric
    from crayon.server.observability.observation import Observation, TokenPace

REASONS = {
    "RESOURCE_EXHAUSTED": "overloaded",
    "UNAVAILABLE": "unavailable",
    "UNAUTHENTICATED": "unauthenticated",
    "PERMISSION_DENIED": "permission_denied",
}
_MAKERS: dict[MetricKind, Any] = {MetricKind.COUNTER: Counter, MetricKind.GAUGE: Gauge, MetricKind.HISTOGRAM: Histogram}


class RequestMetrics:
    """A watcher that counts, in a registry of its own.

    Args:
        pace: what is counted at every token.
        version: of this program.
    """

    def __init__(self, pace: TokenPace, version: str) -> None:
        self.registry: CollectorRegistry = _Registry()
        self._made = {
            metric.name: _make(metric, self.registry)
            for metric in names.OF_REQUESTS
            if metric not in {names.FIRST_TOKEN, names.INTER_TOKEN, names.GENERATION_TOKENS}
        }
        self._engine = EngineMetrics()
        self.registry.register(_PaceCollector(pace))
        self.registry.register(self._engine)
        ProcessCollector(registry=self.registry)
        self._of(names.BUILD).labels(version).set(1)
        # So that a rate is 0, and not absent, before the first one.
        for method in METHODS:
            for metric in (names.CANCELLED, names.EXPIRED, names.DURATION):
                self._of(metric).labels(method)
            self._of(names.REQUESTS).labels(method, "OK")
        for reason in REASONS.values():
            self._of(names.REFUSED).labels(reason)
        for ended in FinishReason:
            self._of(names.SUCCESS).labels(ended.value)

    def serves(self, *, yes: bool) -> None:
        """Note what health says."""
        self._of(names.SERVING).set(int(yes))

    def watch(self, engine: Engine) -> None:
        """Read an engine's numbers from now on."""
        self._engine.engine = engine
        for info in engine.models():
            self._of(names.MODEL).labels(info.name, info.quantization).set(1)

    def began(self, seen: Observation) -> None:
        """Nothing is counted before the end."""

    def ended(self, seen: Observation) -> None:
        """Count a call."""
        self._of(names.REQUESTS).labels(seen.method, seen.code).inc()
        self._of(names.DURATION).labels(seen.method).observe(seen.seconds)
        if seen.code in REASONS:
            self._of(names.REFUSED).labels(REASONS[seen.code]).inc()
        elif seen.code == "CANCELLED":
            self._of(names.CANCELLED).labels(seen.method).inc()
        elif seen.code == "DEADLINE_EXCEEDED":
            self._of(names.EXPIRED).labels(seen.method).inc()
        if seen.usage is not None:
            self._of(names.PROMPT_TOKENS).inc(seen.usage.prompt_tokens)
        self._finished(seen)

    def _finished(self, seen: Observation) -> None:
        if seen.finish_reason is None or seen.timings is None or seen.usage is None:
            return
        written, timings = seen.usage.completion_tokens, seen.timings
        self._of(names.SUCCESS).labels(seen.finish_reason.value).inc()
        self._of(names.LATENCY).observe(seen.seconds)
        self._of(names.QUEUE).observe(timings.queue_ms / 1000)
        self._of(names.PREFILL).observe(timings.prompt_ms / 1000)
        self._of(names.DECODE).observe(timings.decode_ms / 1000)
        self._of(names.REQUEST_PROMPT).observe(seen.usage.prompt_tokens)
        self._of(names.REQUEST_GENERATION).observe(written)
        if written > 1:
            self._of(names.PER_TOKEN).observe(timings.decode_ms / 1000 / (written - 1))

    def _of(self, metric: Metric) -> Any:
        return self._made[metric.name]


class _Registry(CollectorRegistry):
    """Leaves away the series `_created` that the library adds: they double the page, and nobody asks for them."""

    def collect(self) -> Iterator[Family]:
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class _PaceCollector:
    def __init__(self, pace: TokenPace) -> None:
        self._pace = pace

    def collect(self) -> Iterator[Family]:
        tokens = names.GENERATION_TOKENS
        yield CounterMetricFamily(tokens.name, tokens.help, value=self._pace.tokens)
        for metric, tally in ((names.FIRST_TOKEN, self._pace.firsts), (names.INTER_TOKEN, self._pace.gaps)):
            yield HistogramMetricFamily(metric.name, metric.help, buckets=tally.buckets(), sum_value=tally.sum)


def _make(metric: Metric, registry: CollectorRegistry) -> Any:
    more = {"buckets": metric.buckets} if metric.kind is MetricKind.HISTOGRAM else {}
    return _MAKERS[metric.kind](metric.name, metric.help, metric.labels, registry=registry, **more)
