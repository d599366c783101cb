"""One request: tried again, for a short while, as long as nothing has come back; elsewhere, if there is an elsewhere.

gRPC could do this itself (retryPolicy in the service config), but with grpcio 1.85 a call whose last attempt fails on
a channel that is known to be broken never ends, not even at its deadline. A test kills a server to hold this.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from crayon.client.balancer import RequestOutcome
from crayon.errors import CancelledError, EngineClosedError, OverloadedError, ServerUnavailableError
from crayon.tracing import NO_SPAN
from crayon.wire.status import error_from_rpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message as ProtoMessage

    from crayon.client.balancer import Pick
    from crayon.client.fleet import Fleet
    from crayon.client.retry_budget import RetryBudget
    from crayon.errors import CrayonError
    from crayon.tracing import Span

Result = TypeVar("Result")

# At servers that have been tried before. Each server that is well may be tried once besides.
MAX_ATTEMPTS = 3
FIRST_PAUSE_S = 0.1


class _MovedError(Exception):
    """An answer began, but the call had just been given up."""


class Attempts:
    """The calls of one request, with growing pauses where a server is asked again, and within one deadline.

    Args:
        fleet: says which server is asked, and is told how it went. The last server hears of the end of the request
            from whoever reads it; see `pick`.
        start: returns what begins a call on a channel, given the message, a timeout and metadata.
        message: the request.
        patience: seconds for all attempts together.
        budget: what all requests of a client may try again together.
        span: of all attempts together, in the caller's trace; it ends with them.
        sent: told of each attempt when it ends: the server's address, and the name of the status.
        options: further keywords of each call.
    """

    def __init__(
        self,
        fleet: Fleet,
        start: Callable[[grpc.Channel], Callable[..., Any]],
        message: ProtoMessage,
        patience: float,
        budget: RetryBudget,
        span: Span = NO_SPAN,
        sent: Callable[[str, str], None] | None = None,
        **options: Any,
    ) -> None:
        self._fleet = fleet
        self._start = start
        self._message = message
        self._deadline = time.monotonic() + patience
        self._budget = budget
        self._span = span
        self._sent = sent
        self.options = options
        self._lock = threading.Lock()
        self._call: Any = None
        self._cancelled = threading.Event()
        self._moving = False
        self._tried: set[str] = set()
        self.pick: Pick | None = None
        """The server that is asked now, or was asked last; None if nobody could be."""
        self.begun = False
        """Whether something has come back: from then on nothing is tried again."""

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

    def begin(self) -> None:
        """Hear from the reader that something has come back."""
        with self._lock:
            if self._moving:
                raise _MovedError
            self.begun = True

    def leave(self, address: str) -> None:
        """Give up a call that waits for its first token at this server, and try another one; else do nothing."""
        with self._lock:
            call, pick = self._call, self.pick
            if self.begun or call is None or pick is None or pick.address != address:
                return
            self._moving = True
        call.cancel()

    def run(self, read: Callable[[Any], Result]) -> Result:
        """Return what `read` makes of the call that succeeds.

        Raises:
            CrayonError: what the server, or the lack of one, says; or what `read` raises.
            EngineClosedError: the client was closed meanwhile.
        """
        try:
            result = self._run(read)
        except BaseException as error:
            self._span.end(error)
            raise
        self._span.end()
        return result

    def _run(self, read: Callable[[Any], Result]) -> Result:
        pick = self._turn()
        again = 0
        while True:
            call = self._begin(pick)
            try:
                result = self._read(read, call, pick)
            except Exception as raised:  # noqa: BLE001 - raised again, unless it is the call's failure
                error = self._failure(raised, call)
            except BaseException:
                call.cancel()
                raise
            else:
                self._budget.success()
                return result
            if not self._may_follow(error, pick) or self.cancelled:
                raise error
            if not self._elsewhere():
                again += 1
                # Random, so that clients which lost the same server do not come back all at once.
                pause = FIRST_PAUSE_S * 2 ** (again - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
                if again == MAX_ATTEMPTS or pick.probe or pause >= self._left() or self._cancelled.wait(pause):
                    raise error
            if self._elsewhere():
                away = isinstance(error, ServerUnavailableError)
                self._fleet.balancer.end(pick, RequestOutcome.FAILED if away else RequestOutcome.ANSWERED)
                try:
                    pick = self._turn()
                except ServerUnavailableError:
                    raise error from None

    def _read(self, read: Callable[[Any], Result], call: Any, pick: Pick) -> Result:
        try:
            return read(call)
        finally:
            if self._sent is not None:
                # What has not ended is given up here, and cancelled just after.
                code = call.code() if call.done() else grpc.StatusCode.CANCELLED
                self._sent(pick.address, code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN")

    def _turn(self) -> Pick:
        pick = self._fleet.pick(self._tried, self._left())
        self._tried.add(pick.address)
        with self._lock:
            self.pick = pick
        return pick

    def _begin(self, pick: Pick) -> Any:
        with self._lock:
            if self.cancelled:
                raise CancelledError("the caller cancelled")
            metadata = (*self._fleet.metadata(pick.address), *self._span.headers)
            self._moving = False
            try:
                begin = self._start(self._fleet.channel(pick.address))
                self._call = begin(self._message, timeout=self._left(), metadata=metadata, **self.options)
            except ValueError:
                # What grpc raises for a channel that another thread closed meanwhile.
                raise EngineClosedError("the client was closed") from None
            return self._call

    def _failure(self, raised: Exception, call: Any) -> CrayonError:
        """Return what the end of a call means; what is not about the call is raised again."""
        with self._lock:
            moved, self._moving = self._moving, False
        if isinstance(raised, grpc.RpcError):
            error = error_from_rpc(call)
        else:
            call.cancel()
            if not (moved and isinstance(raised, _MovedError | CancelledError)):
                raise raised
            error = CancelledError("given up")
        if moved and isinstance(error, CancelledError) and not self.cancelled:
            return ServerUnavailableError("it has stopped to answer")
        return error

    def _may_follow(self, error: CrayonError, pick: Pick) -> bool:
        """Tell the balancer of a failure; return whether the request may be tried again."""
        if isinstance(error, ServerUnavailableError):
            # What one event brings about is paid for once: calls that were lost together are sent again together.
            news = self._fleet.balancer.eject(pick)
            affordable = self._budget.failure() if news else self._budget.left
            return affordable and not self.begun
        if isinstance(error, OverloadedError):
            self._fleet.balancer.full(pick, error.retry_after)
            return not self.begun and self._elsewhere() and self._budget.failure()
        return False

    def _elsewhere(self) -> bool:
        return self._fleet.balancer.spare(self._tried)

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())
