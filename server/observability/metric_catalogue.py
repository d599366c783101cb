"""Every metric of the server: one table, from which they are made, documented and checked.

The names are vLLM's with `crayon_` in place of `vllm:` wherever vLLM has such a metric. No label has a value that a
client could choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class MetricKind(StrEnum):
    """Prometheus's types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Args:
        name: as in a query; a histogram's without `_bucket`, `_sum` and `_count`.
        kind: its type.
        help: what it counts.
        labels: names of its labels.
        buckets: upper bounds, of a histogram.
        stat: the field of `EngineStats` that it is, if it is the engine's.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    stat: str = ""

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may use."""
        if self.kind is MetricKind.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


_SECONDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_SHORT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0)
STEP_TOKENS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)

COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

# -- of the requests, as the service sees them

REQUESTS = Metric(
    "crayon_requests_total", COUNTER, "Calls that have ended, by method and gRPC status code.", ("method", "code")
)
REFUSED = Metric(
    "crayon_requests_refused_total",
    COUNTER,
    "Calls that were turned away: overloaded (a queue or a limit is full), unavailable (loading or draining), "
    "unauthenticated or permission_denied.",
    ("reason",),
)
CANCELLED = Metric(
    "crayon_requests_cancelled_total", COUNTER, "Calls whose client cancelled or went away.", ("method",)
)
EXPIRED = Metric("crayon_requests_deadline_exceeded_total", COUNTER, "Calls whose deadline passed.", ("method",))
DURATION = Metric(
    "crayon_request_duration_seconds", HISTOGRAM, "From a call's arrival to its end, however it ended.",
    ("method",), _SECONDS,
)  # fmt: skip
SUCCESS = Metric(
    "crayon_request_success_total", COUNTER, "Answers that were finished, by why they ended.", ("finished_reason",)
)
PROMPT_TOKENS = Metric("crayon_prompt_tokens_total", COUNTER, "Tokens of the prompts of calls that succeeded.")
GENERATION_TOKENS = Metric("crayon_generation_tokens_total", COUNTER, "Tokens written; counted as they are sent.")
FIRST_TOKEN = Metric(
    "crayon_time_to_first_token_seconds", HISTOGRAM, "From arrival to the first piece of the answer.",
    buckets=_SHORT,
)  # fmt: skip
INTER_TOKEN = Metric(
    "crayon_inter_token_latency_seconds", HISTOGRAM,
    "Between two tokens of an answer, as they are sent; tokens sent together share the time.", buckets=_TOKEN,
)  # fmt: skip
PER_TOKEN = Metric(
    "crayon_request_time_per_output_token_seconds", HISTOGRAM,
    "Mean time per token after the first, of each answer that was finished.", buckets=_TOKEN,
)  # fmt: skip
LATENCY = Metric(
    "crayon_e2e_request_latency_seconds", HISTOGRAM, "From arrival to the end of answers that were finished.",
    buckets=_SECONDS,
)  # fmt: skip
QUEUE = Metric(
    "crayon_request_queue_time_seconds", HISTOGRAM, "Waiting for a slot, of answers that were finished.",
    buckets=_SECONDS,
)  # fmt: skip
PREFILL = Metric(
    "crayon_request_prefill_time_seconds", HISTOGRAM, "Reading the prompt, of answers that were finished.",
    buckets=_SECONDS,
)  # fmt: skip
DECODE = Metric(
    "crayon_request_decode_time_seconds", HISTOGRAM,
    "From the first token to the last, of answers that were finished.", buckets=_SECONDS,
)  # fmt: skip
REQUEST_PROMPT = Metric(
    "crayon_request_prompt_tokens", HISTOGRAM, "Tokens of the prompt, of answers that were finished.", buckets=_TOKENS
)
REQUEST_GENERATION = Metric(
    "crayon_request_generation_tokens", HISTOGRAM, "Tokens written, of answers that were finished.", buckets=_TOKENS
)
SERVING = Metric("crayon_serving", GAUGE, "1 while health says SERVING, 0 while the server loads, drains or is broken.")
BUILD = Metric("crayon_build_info", GAUGE, "Always 1; the version in a label.", ("version",))
MODEL = Metric("crayon_model_info", GAUGE, "Always 1; the served model in labels.", ("model_name", "quantization"))

OF_REQUESTS = (
    REQUESTS, REFUSED, CANCELLED, EXPIRED, DURATION, SUCCESS, PROMPT_TOKENS, GENERATION_TOKENS, FIRST_TOKEN,
    INTER_TOKEN, PER_TOKEN, LATENCY, QUEUE, PREFILL, DECODE, REQUEST_PROMPT, REQUEST_GENERATION, SERVING, BUILD, MODEL,
)  # fmt: skip

# -- of the engine, where it tells

OF_ENGINES = (
    Metric("crayon_num_requests_running", GAUGE, "Requests being computed.", stat="running"),
    Metric("crayon_num_requests_waiting", GAUGE, "Requests that wait for a slot.", stat="waiting"),
    Metric("crayon_kv_cache_usage_perc", GAUGE, "Used share of the KV cache, 0 to 1.", stat="kv_cache_usage"),
    Metric(
        "crayon_num_preemptions_total", COUNTER, "Requests set aside (spilled) for lack of cache.", stat="preemptions"
    ),
    Metric("crayon_num_restores_total", COUNTER, "Requests brought back after that.", stat="restores"),
    Metric(
        "crayon_prefix_cache_queries_total", COUNTER,
        "Prompt tokens that were looked up among those of earlier requests.", stat="prefix_queries",
    ),
    Metric(
        "crayon_prefix_cache_hits_total", COUNTER, "Those of them that were found, and not computed.",
        stat="prefix_hits",
    ),
    Metric(
        "crayon_iteration_tokens_total", HISTOGRAM, "Tokens of each step of the engine.", buckets=STEP_TOKENS,
        stat="iteration_tokens",
    ),
    Metric("crayon_steps_total", COUNTER, "Steps of the engine.", stat="steps"),
    Metric("crayon_step_tokens_total", COUNTER, "Tokens computed in them.", stat="step_tokens"),
    Metric(
        "crayon_step_room_tokens_total", COUNTER,
        "Tokens that these steps could have computed; the batch's fill is the one rate by the other.",
        stat="step_room",
    ),
    Metric(
        "crayon_adapter_switches_total", COUNTER,
        "Engine calls that computed with other adapters than the call before.", stat="adapter_switches",
    ),
    Metric("crayon_blends_loaded", GAUGE, "Blends in memory.", stat="blends_loaded"),
    Metric(
        "crayon_engine_slowdown", GAUGE, "How many times as long engine calls take as they should.", stat="slowdown"
    ),
)  # fmt: skip

METRICS = (*OF_REQUESTS, *OF_ENGINES)


def table() -> str:
    """Return the table of all metrics for the documentation, as Markdown."""
    return "\n".join(("| metric | type | labels | what |", "| --- | --- | --- | --- |", *_rows())) + "\n"


def _rows() -> Iterator[str]:
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"
