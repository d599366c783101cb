"""What the llama.cpp engine tells of its work, from its books."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.observing.stats import EngineStats

if TYPE_CHECKING:
    from crayon.server.engines.llama_counters import Counters
    from crayon.server.scheduler import Caps, State


def stats_of(
    counters: Counters, state: State, caps: Caps, *, waiting: int, shares: bool, blends: int | None
) -> EngineStats:
    """Return the engine's numbers. From any thread: lengths and plain sums only, which the loop's thread writes.

    Args:
        counters: its sums.
        state: who runs.
        caps: its limits.
        waiting: requests that wait.
        shares: whether prompts are looked up among earlier ones.
        blends: blends in memory; None where there are no pools.
    """
    return EngineStats(
        running=len(state.running) + len(state.spilled),
        waiting=waiting,
        kv_cache_usage=state.cells.used / caps.kv_capacity,
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
