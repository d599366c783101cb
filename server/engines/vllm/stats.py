"""vLLM's own statistics, as those that every engine may tell."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from crayon.server.observability.stats import EngineStats

if TYPE_CHECKING:
    from collections.abc import Callable


class VllmStats:
    """Adds up what vLLM reports, one report a step, of each copy of the model. Read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: dict[int, tuple[int, int, float]] = {}
        self._preemptions = self._queries = self._hits = self._steps = self._tokens = 0

    def factory(self) -> Callable[[Any, int], Any]:
        """Return what vLLM makes its stat loggers with."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        stats = self

        class Logger(StatLoggerBase):  # type: ignore[misc] # vLLM comes untyped
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                """Take no notice of either: `record` is told again."""

            def record(
                self,
                scheduler_stats: Any,
                iteration_stats: Any,
                mm_cache_stats: Any = None,  # noqa: ARG002 - vLLM's signature
                engine_idx: int = 0,
            ) -> None:
                stats.record(scheduler_stats, iteration_stats, engine_idx)

            def log_engine_initialized(self) -> None:
                """Say nothing: the server does."""

        return Logger

    def record(self, scheduler: Any, iteration: Any, engine: int) -> None:
        """Take one report; either part may be missing."""
        with self._lock:
            if scheduler is not None:
                waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
                self._now[engine] = (scheduler.num_running_reqs, waiting, scheduler.kv_cache_usage)
                if scheduler.prefix_cache_stats is not None:
                    self._queries += scheduler.prefix_cache_stats.queries
                    self._hits += scheduler.prefix_cache_stats.hits
            if iteration is not None:
                self._steps += 1
                self._tokens += iteration.num_generation_tokens + iteration.num_prompt_tokens
                self._preemptions += iteration.num_preempted_reqs

    def read(self, *, blends: int | None) -> EngineStats:
        """Return the numbers as of now."""
        with self._lock:
            now = list(self._now.values())
            return EngineStats(
                running=sum(each[0] for each in now),
                waiting=sum(each[1] for each in now),
                kv_cache_usage=max((each[2] for each in now), default=0.0),
                blends_loaded=blends,
                preemptions=self._preemptions,
                prefix_queries=self._queries,
                prefix_hits=self._hits,
                steps=self._steps,
                step_tokens=self._tokens,
            )
