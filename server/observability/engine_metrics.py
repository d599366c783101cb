"""Metrics of the engine: its own numbers, read when somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from crayon.server.observability.histogram import Tally
from crayon.server.observability.metric_catalogue import OF_ENGINES, MetricKind
from crayon.server.observability.stats import CountingEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric as Family

    from crayon.server.observability.metric_catalogue import Metric


class EngineMetrics:
    """A collector of what `engine` tells; of an engine that tells nothing, or does not have a thing, there is none."""

    def __init__(self) -> None:
        self.engine: object = None

    def collect(self) -> Iterator[Family]:
        """Yield the engine's metrics as of now."""
        engine = self.engine
        if not isinstance(engine, CountingEngine):
            return
        stats = engine.stats()
        for metric in OF_ENGINES:
            value = getattr(stats, metric.stat)
            if value is not None:
                yield _family(metric, value)


def _family(metric: Metric, value: float | Tally) -> Family:
    if isinstance(value, Tally):
        return HistogramMetricFamily(metric.name, metric.help, buckets=value.buckets(), sum_value=value.sum)
    make = CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily
    return make(metric.name, metric.help, value=value)
