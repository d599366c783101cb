"""One frame of `crayon top`: numbers by name, and how they look."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from crayon.server.observability import metric_catalogue as names
from crayon.server.observability.reading import quantile, rate

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from crayon.server.observability.reading import Page

_BAR = 20  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is shown; None is not known, or nothing happened between the two looks.

    Args:
        address: of the metrics.
        model, version: of the server.
        serving: whether health says so.
        running, waiting: requests.
        kv_cache_usage, batch_fill: shares, 0 to 1.
        requests_per_second: calls that ended.
        prompt_tokens_per_second, generation_tokens_per_second: tokens.
        ttft_p50_s, ttft_p95_s: seconds to the first token.
        itl_p50_s, itl_p95_s: seconds between two tokens.
        refused: calls turned away since the start, by reason; those without are left away.
        cancelled, deadline_exceeded, preemptions, adapter_switches: since the start.
        prefix_hit_rate: share of looked-up prompt tokens that were found, since the start.
        blends_loaded: blends in memory.
    """

    address: str
    model: str
    version: str
    serving: bool
    running: float | None
    waiting: float | None
    kv_cache_usage: float | None
    batch_fill: float | None
    requests_per_second: float | None
    prompt_tokens_per_second: float | None
    generation_tokens_per_second: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    itl_p50_s: float | None
    itl_p95_s: float | None
    cancelled: float
    deadline_exceeded: float
    preemptions: float | None
    adapter_switches: float | None
    prefix_hit_rate: float | None
    blends_loaded: float | None
    refused: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, address: str, before: Page | None, now: Page) -> Self:
        """Return the frame between two pages, of which the first may be missing."""

        def of_histogram(metric: names.Metric, share: float) -> float | None:
            return None if before is None else quantile(before, now, metric.name, share)

        return cls(
            address=address,
            model=now.label(names.MODEL.name, "model_name"),
            version=now.label(names.BUILD.name, "version"),
            serving=bool(now.get(names.SERVING.name)),
            running=now.get("crayon_num_requests_running"),
            waiting=now.get("crayon_num_requests_waiting"),
            kv_cache_usage=now.get("crayon_kv_cache_usage_perc"),
            batch_fill=_ratio(
                rate(before, now, "crayon_step_tokens_total"), rate(before, now, "crayon_step_room_tokens_total")
            ),
            requests_per_second=rate(before, now, names.REQUESTS.name),
            prompt_tokens_per_second=rate(before, now, names.PROMPT_TOKENS.name),
            generation_tokens_per_second=rate(before, now, names.GENERATION_TOKENS.name),
            ttft_p50_s=of_histogram(names.FIRST_TOKEN, 0.5),
            ttft_p95_s=of_histogram(names.FIRST_TOKEN, 0.95),
            itl_p50_s=of_histogram(names.INTER_TOKEN, 0.5),
            itl_p95_s=of_histogram(names.INTER_TOKEN, 0.95),
            refused={reason: count for reason, count in now.by(names.REFUSED.name, "reason").items() if count},
            cancelled=now.get(names.CANCELLED.name) or 0.0,
            deadline_exceeded=now.get(names.EXPIRED.name) or 0.0,
            preemptions=now.get("crayon_num_preemptions_total"),
            adapter_switches=now.get("crayon_adapter_switches_total"),
            prefix_hit_rate=_ratio(
                now.get("crayon_prefix_cache_hits_total"), now.get("crayon_prefix_cache_queries_total")
            ),
            blends_loaded=now.get("crayon_blends_loaded"),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)

    def table(self) -> Table:
        """Return what is shown in the terminal."""
        table = _table(self.address, "serving" if self.serving else "not serving")
        about = " ".join(filter(None, (self.model, f"crayon {self.version}" if self.version else "")))
        written, read = _number(self.generation_tokens_per_second), _number(self.prompt_tokens_per_second)
        speed = f"{written} tokens written, {read} read, {_number(self.requests_per_second)} requests"
        rows = (
            ("model", about),
            ("requests", f"{_whole(self.running)} running, {_whole(self.waiting)} waiting"),
            ("KV cache", _bar(self.kv_cache_usage)),
            ("batch fill", _bar(self.batch_fill)),
            ("per second", speed),
            ("first token", f"{_ms(self.ttft_p50_s)} median, {_ms(self.ttft_p95_s)} 95 %"),
            ("between tokens", f"{_ms(self.itl_p50_s)} median, {_ms(self.itl_p95_s)} 95 %"),
            ("refused", ", ".join(f"{int(n)} {reason}" for reason, n in self.refused.items()) or "0"),
            ("given up", f"{int(self.cancelled)} cancelled, {int(self.deadline_exceeded)} past their deadline"),
            (
                "cache",
                f"{_percent(self.prefix_hit_rate)} of prompts found, {_whole(self.preemptions)} requests set aside",
            ),
            ("blends", f"{_whole(self.blends_loaded)} loaded, {_whole(self.adapter_switches)} switches"),
        )
        for name, value in rows:
            table.add_row(name, _plain(value))
        return table


def away(address: str, problem: str) -> Table:
    """Return what is shown while there is no server."""
    table = _table(address, "away")
    table.add_row("waiting for it", _plain(problem))
    return table


def _table(address: str, state: str) -> Table:
    from rich import box
    from rich.table import Table

    style = {"serving": "green", "away": "red"}.get(state, "yellow")
    table = Table(title=_plain(f"{address}  {state}", style), box=box.SIMPLE, show_header=False, title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    return table


def _plain(text: str, style: str = "") -> Text:
    from rich.text import Text

    # What a page says may come from anywhere, and must not move the cursor.
    safe = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return Text(safe, style=style)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.1f} ms"


def _bar(share: float | None) -> str:
    if share is None:
        return "-"
    full = round(_BAR * min(max(share, 0.0), 1.0))
    return f"{'#' * full}{'.' * (_BAR - full)} {100 * share:.0f} %"
