"""One request to a server: tried again, for a short while, as long as nothing has come back.

gRPC could do this itself (retryPolicy in the service config), but with grpcio 1.85 a call whose last attempt fails on
a channel that is known to be broken never ends, not even at its deadline. A test kills a server to hold this.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from crayon.client.retry_budget import RetryBudget
from crayon.errors import CancelledError, EngineClosedError, ServerUnavailableError
from crayon.tracing import NO_SPAN
from crayon.wire.status import error_from_rpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message as ProtoMessage

    from crayon.client.access import Metadata
    from crayon.tracing import Span

Result = TypeVar("Result")

FIRST_PAUSE_S = 0.1


class Attempts:
    """At most `most` calls of one request, with growing pauses and within one deadline.

    Args:
        start: begins a call, given the message and a timeout.
        message: the request.
        patience: seconds for all attempts together.
        most: how many; 1 tries once.
        budget: what all requests of a client may try again together.
        metadata: gives the metadata of each call.
        span: of all attempts together, in the caller's trace; it ends with them.
    """

    def __init__(
        self,
        start: Callable[..., Any],
        message: ProtoMessage,
        patience: float,
        most: int,
        budget: RetryBudget | None = None,
        metadata: Callable[[], Metadata] = tuple,
        span: Span = NO_SPAN,
    ) -> None:
        self._start = start
        self._message = message
        self._deadline = time.monotonic() + patience
        self._most = most
        self._budget = RetryBudget() if budget is None else budget
        self._metadata = metadata
        self._span = span
        self._lock = threading.Lock()
        self._call: Any = None
        self._cancelled = threading.Event()
        self.begun = False
        """Set by the reader when something has come back: from then on nothing is tried again."""

    @property
    def cancelled(self) -> bool:
        """Whether the caller has cancelled."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the call that runs, and try no more."""
        with self._lock:
            self._cancelled.set()
            call = self._call
        if call is not None:
            call.cancel()

    def run(self, read: Callable[[Any], Result]) -> Result:
        """Return what `read` makes of the call that succeeds.

        Raises:
            CrayonError: what the server, or the lack of one, says; or what `read` raises.
            EngineClosedError: the channel was closed meanwhile.
        """
        try:
            result = self._tried(read)
        except BaseException as error:
            self._span.end(error)
            raise
        self._span.end()
        return result

    def _tried(self, read: Callable[[Any], Result]) -> Result:
        for attempt in range(1, self._most + 1):
            call = self._begin()
            try:
                result = read(call)
                self._budget.success()
                return result
            except grpc.RpcError:
                error = error_from_rpc(call)
            except BaseException:
                call.cancel()
                raise
            # Random, so that clients which lost the same server do not come back all at once.
            pause = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            away = isinstance(error, ServerUnavailableError)
            affordable = self._budget.failure() if away else False
            again = affordable and not self.begun and attempt < self._most
            if not again or pause >= self._deadline - time.monotonic() or self._cancelled.wait(pause):
                break
        raise error

    def _begin(self) -> Any:
        with self._lock:
            if self.cancelled:
                raise CancelledError("the caller cancelled")
            left = max(0.0, self._deadline - time.monotonic())
            metadata = (*self._metadata(), *self._span.headers)
            try:
                self._call = self._start(self._message, timeout=left, metadata=metadata)
            except ValueError:
                # What grpc raises for a channel that another thread closed meanwhile.
                raise EngineClosedError("the client was closed") from None
            return self._call
