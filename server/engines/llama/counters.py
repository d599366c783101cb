"""What an engine has done since it was opened: plain sums, so that two readings tell what happened between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from crayon.server.observability.histogram import Tally
from crayon.server.observability.metric_catalogue import STEP_TOKENS
from crayon.server.observability.stats import EngineStats
from crayon.server.scheduler import DropReason, Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.server.cost.breakdown import TimeSpent
    from crayon.server.scheduler import State, StepLimits, StepPlan


@dataclass(slots=True)
class Counters:
    """Written by the engine's thread alone; read from any.

    `wall_s` is the time from a step's plan to its last result, `compute_s` that in which runners computed, and
    `beside_s` the part of it in which the next step was planned. `room_tokens` is what the steps could have held.
    `useful_s` to `switches_s` are what the fitted cost says that time in runners went for (see `losses.TimeSpent`).

    Not sums but as of now: `cost_error` is the median relative error of the cost's predictions for calls that came
    after it was fitted, `line_error` what it would have been with a straight line, both None until there are enough;
    `slowdown` is how many times as long calls take as they should.
    """

    steps: int = 0
    calls: int = 0
    tokens: int = 0
    room_tokens: int = 0
    decode_tokens: int = 0
    prefill_tokens: int = 0
    output_rows: int = 0
    blends: int = 0
    switched: int = 0
    shared_tokens: int = 0
    spilled: int = 0
    restored: int = 0
    moved: int = 0
    bridged: int = 0
    cancelled: int = 0
    expired: int = 0
    planned_ahead: int = 0
    wall_s: float = 0.0
    compute_s: float = 0.0
    beside_s: float = 0.0
    useful_s: float = 0.0
    fill_s: float = 0.0
    memory_s: float = 0.0
    attention_s: float = 0.0
    outputs_s: float = 0.0
    switches_s: float = 0.0
    refused_late: int = 0
    slow_spells: int = 0
    cost_fits: int = 0
    cost_error: float | None = None
    line_error: float | None = None
    slowdown: float = 1.0
    step_tokens: Tally = field(default_factory=lambda: Tally(STEP_TOKENS))
    """Tokens of each step; not in `as_json`."""

    def dropped(self, reason: DropReason, *, cancelled: bool) -> None:
        """Count a request that ended early: by its caller, or by its deadline."""
        self.cancelled += cancelled
        self.expired += reason is DropReason.EXPIRED and not cancelled

    def step(self, step: StepPlan, limits: StepLimits, seconds: float) -> None:
        """Count a step."""
        self.steps += 1
        self.wall_s += seconds
        self.tokens += step.tokens
        if step.nano:
            self.room_tokens += limits.max_tokens
            self.step_tokens.add(step.tokens)
        self.blends += len({nano.blend for nano in step.nano})
        self.shared_tokens += sum(share.tokens for share in step.shares)
        for nano in step.nano:
            self.output_rows += sum(row.logits for row in nano.rows)
            if nano.resource is Resource.DECODE:
                self.decode_tokens += nano.tokens
            elif nano.resource is Resource.PREFILL:
                self.prefill_tokens += nano.tokens

    def computed(self, seconds: float, beside: float, calls: int) -> None:
        """Count calls that ran at the same time."""
        self.calls += calls
        self.compute_s += seconds
        self.beside_s += beside

    def explain(self, spent: TimeSpent) -> None:
        """Count what the seconds of a call went for, as the cost says."""
        self.useful_s += spent.useful
        self.fill_s += spent.fill
        self.memory_s += spent.memory
        self.attention_s += spent.attention
        self.outputs_s += spent.outputs
        self.switches_s += spent.switches

    def as_json(self) -> dict[str, Any]:
        """Return the sums by name, and under `shares` what they come to."""
        sums = asdict(self)
        del sums["step_tokens"]
        return {**sums, "shares": shares(sums)}


_EXPLAINED = {
    "useful": "useful_s",
    "lost to fill": "fill_s",
    "lost to memory": "memory_s",
    "lost to attention": "attention_s",
    "lost to outputs": "outputs_s",
    "lost to switches": "switches_s",
}


def shares(counters: Mapping[str, Any]) -> dict[str, float]:
    """Return what the sums of `as_json` come to: where time went and how full steps were.

    `host gap` is the time of steps in which nothing was computed, `fill` the part of the steps' room that was used, and
    `planned ahead` the part of the steps that were. Once the cost of a step is known, `useful` and what is `lost to`
    each cause are shares of the same time; with the host gap and `unexplained` (below 0 where the cost predicts too
    much) they sum to 1. Empty before the first step.
    """
    if not counters["steps"] or not counters["wall_s"] or not counters["room_tokens"]:
        return {}
    gap = max(0.0, 1.0 - counters["compute_s"] / counters["wall_s"])
    found = {
        "host gap": gap,
        "fill": counters["tokens"] / counters["room_tokens"],
        "planned ahead": counters["planned_ahead"] / counters["steps"],
    }
    explained = {name: counters.get(key, 0.0) / counters["wall_s"] for name, key in _EXPLAINED.items()}
    if any(explained.values()):
        found |= explained
        found["unexplained"] = 1.0 - gap - sum(explained.values())
    return found


def stats_of(
    counters: Counters, state: State, limits: StepLimits, *, waiting: int, shares: bool, blends: int | None
) -> EngineStats:
    """Return the engine's numbers. From any thread: lengths and plain sums only, which the loop's thread writes.

    Args:
        counters: its sums.
        state: who runs.
        limits: its limits.
        waiting: requests that wait.
        shares: whether prompts are looked up among earlier ones.
        blends: blends in memory; None where there are no pools.
    """
    return EngineStats(
        running=len(state.running) + len(state.spilled),
        waiting=waiting,
        kv_cache_usage=state.cells.used / limits.kv_capacity,
        blends_loaded=blends,
        slowdown=counters.slowdown,
        preemptions=counters.spilled,
        restores=counters.restored,
        prefix_queries=counters.prefill_tokens + counters.shared_tokens if shares else None,
        prefix_hits=counters.shared_tokens if shares else None,
        adapter_switches=counters.switched,
        steps=counters.steps,
        step_tokens=counters.tokens,
        step_room=counters.room_tokens,
        iteration_tokens=counters.step_tokens,
    )
