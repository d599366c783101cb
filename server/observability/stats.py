"""What an engine can tell of its work: the small protocol that any engine may implement, or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from crayon.server.observability.histogram import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Sums since the engine was opened, and a few values as of now; None where the engine does not have such a thing.

    Args:
        running: requests being computed now.
        waiting: requests queued now.
        kv_cache_usage: used share of the cache now, 0 to 1.
        blends_loaded: blends in memory now.
        slowdown: how many times as long engine calls take now as they should.
        preemptions: times that a request was set aside for lack of cache.
        restores: times that one was brought back.
        prefix_queries: prompt tokens that were looked up among those of earlier requests.
        prefix_hits: those of them that were found, and not computed.
        adapter_switches: engine calls that computed with other adapters than the call before.
        steps: steps of the engine.
        step_tokens: tokens computed in them.
        step_room: tokens that they could have computed.
        iteration_tokens: tokens of each step.
    """

    running: int
    waiting: int = 0
    kv_cache_usage: float | None = None
    blends_loaded: int | None = None
    slowdown: float | None = None
    preemptions: int | None = None
    restores: int | None = None
    prefix_queries: int | None = None
    prefix_hits: int | None = None
    adapter_switches: int | None = None
    steps: int | None = None
    step_tokens: int | None = None
    step_room: int | None = None
    iteration_tokens: Tally | None = None


@runtime_checkable
class CountingEngine(Protocol):
    """An engine that counts what it does."""

    def stats(self) -> EngineStats:
        """Return the numbers as of now; from any thread, at any time, after `close` too, and without waiting."""
        ...
