"""A call as spans: the request, and in it queue, prefill and decode as the engine has timed them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon import tracing
from crayon.tracing import start_span

if TYPE_CHECKING:
    from crayon.server.observability.observation import Observation


class RequestSpans:
    """A watcher that goes on with the caller's trace, or begins one."""

    def began(self, seen: Observation) -> None:
        """Begin the request's span."""
        attributes = {tracing.RPC_SYSTEM: "grpc", tracing.RPC_METHOD: seen.method}
        if seen.method == "Generate":
            attributes[tracing.OPERATION] = tracing.CHAT
        seen.span = start_span(
            tracing.SERVER_REQUEST, attributes, kind=tracing.SERVER, parent=seen.traceparent, begin_ns=seen.arrived_ns
        )

    def ended(self, seen: Observation) -> None:
        """End it, with its parts if it was answered."""
        span = seen.span
        if span is None:
            return
        attributes: dict[str, str | int] = {tracing.RPC_STATUS: seen.code}
        if seen.request_id:
            attributes[tracing.RESPONSE_ID] = seen.request_id
        if seen.model:
            attributes[tracing.MODEL] = seen.model
        if seen.usage is not None:
            attributes[tracing.INPUT_TOKENS] = seen.usage.prompt_tokens
            attributes[tracing.OUTPUT_TOKENS] = seen.usage.completion_tokens
        if seen.finish_reason is not None:
            attributes[tracing.FINISH_REASONS] = seen.finish_reason.value
        span.set(attributes)
        self._parts(seen)
        if seen.code != "OK":
            span.fail(seen.code)
        span.end()

    def _parts(self, seen: Observation) -> None:
        timings = seen.timings
        if seen.span is None or timings is None:
            return
        # The engine's clock starts when it has the request; what comes before is the service's, a few 100 microseconds.
        whole = 1e-3 * (timings.queue_ms + timings.prompt_ms + timings.decode_ms)
        begin = seen.arrived_ns + int(1e9 * max(0.0, seen.seconds - whole))
        for name, ms, steps in (
            (tracing.QUEUE, timings.queue_ms, None),
            (tracing.PREFILL, timings.prompt_ms, timings.prompt_steps),
            (tracing.DECODE, timings.decode_ms, timings.decode_steps),
        ):
            end = begin + int(1e6 * ms)
            seen.span.part(name, begin, end, None if steps is None else {tracing.STEPS: steps})
            begin = end
