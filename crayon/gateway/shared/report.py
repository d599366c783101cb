"""How an answer was routed, as headers and as the object `crayon` of a body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crayon.completion import Completion, Route, Source


@dataclass(frozen=True, slots=True)
class RouteReporter:
    """Tells routes to clients. `fixed`: the side that every answer is from, where there is nothing to decide."""

    fixed: Source | None = None

    def headers(self, route: Route | None) -> dict[str, str]:
        """Return what is known before the first byte; nothing where no side has been chosen yet."""
        if route is None:
            return {} if self.fixed is None else {"x-crayon-source": str(self.fixed)}
        told = self._route(route)
        values = {name: told[name] for name in ("source", "reason", "score", "threshold", "bytes_sent")}
        return {
            f"x-crayon-{name.replace('_', '-')}": f"{value:.6g}" if isinstance(value, float) else str(value)
            for name, value in values.items()
            if value is not None
        }

    def body(self, completion: Completion) -> dict[str, Any]:
        """Return all that is known of a whole answer."""
        timings = completion.timings
        return {
            **self._route(completion.route),
            "model": completion.model,
            "probability": completion.probability,
            "withheld": completion.withheld,
            "ttft_ms": round(completion.ttft_ms, 3),
            "total_ms": round(completion.total_ms, 3),
            "tokens_per_s": round(completion.tokens_per_s, 3),
            "timings": {
                "queue_ms": round(timings.queue_ms, 3),
                "prompt_ms": round(timings.prompt_ms, 3),
                "decode_ms": round(timings.decode_ms, 3),
            },
        }

    def _route(self, route: Route) -> dict[str, Any]:
        fixed = self.fixed
        told: dict[str, Any] = {
            "source": str(route.source if fixed is None else fixed),
            "reason": str(route.reason) if fixed is None else "mode",
            "score": route.score,
            "threshold": route.threshold,
            "bytes_sent": route.bytes_sent,
            "scope": route.scope,
            "server": route.server,
            "fallback_from": None if route.fallback_from is None else str(route.fallback_from),
            "fallback_error": route.fallback_error,
            "customization": route.customization,
            "profile": route.profile,
            "evidence": list(route.evidence),
            "blend": None,
            "encode_ms": route.encode_ms,
            "holdback_ms": route.holdback_ms,
            "discarded_tokens": route.discarded_tokens,
            "privacy": None,
        }
        if route.blend is not None:
            told["blend"] = {"pool_id": route.blend.pool_id, "weights": list(route.blend.weights)}
        if (found := route.privacy) is not None:
            told["privacy"] = {
                "found": list(found.found),
                "action": str(found.action),
                "dropped_turns": found.dropped_turns,
            }
        return told
