"""A server as an engine: the same calls as on the device, answered over gRPC."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import grpc

from crayon.client.attempts import Attempts
from crayon.client.balancer import RequestOutcome
from crayon.client.breaker import Breaker
from crayon.client.fleet import Fleet
from crayon.client.retry_budget import RetryBudget
from crayon.engine import Delta, Finished, ScoreRequest, Stream, check_kept
from crayon.errors import (
    CancelledError,
    ConfigError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    PrivacyError,
    ServerError,
    ServerInterruptedError,
    ServerUnavailableError,
)
from crayon.ledger import Sent
from crayon.local_only import check_local_only
from crayon.stream import Promise
from crayon.tracing import CLIENT, RPC, RPC_METHOD, RPC_SYSTEM, start_span
from crayon.v1 import inference_pb2 as pb
from crayon.v1 import inference_pb2_grpc
from crayon.wire.limits import MAX_REQUEST_BYTES
from crayon.wire.requests import (
    encode_request_to_proto,
    generate_request_to_proto,
    score_request_to_proto,
)
from crayon.wire.responses import (
    encode_result_from_proto,
    event_from_proto,
    models_from_proto,
    score_result_from_proto,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from google.protobuf.message import Message as ProtoMessage

    from crayon.client.access import AccessOptions
    from crayon.client.balancer import EndpointStatus
    from crayon.client.breakers import Breakers
    from crayon.client.check import ServerStatus
    from crayon.engine import EncodeRequest, EncodeResult, GenerateRequest, ModelInfo, ScoreResult
    from crayon.ledger import Ledger

    Start = Callable[[grpc.Channel], Callable[..., Any]]

Result = TypeVar("Result")

# Less fits into a few packets anyway. Measured on English text: 4 KiB take 0.1 ms and become 2, 16 KiB take 0.4 ms and
# become 7. That pays where the way up is slower than some 100 Mbit/s. Answers come in pieces too small to compress.
COMPRESS_BYTES = 4096
# The methods whose requests hold texts of the user's.
CONTENT = {"Generate", "Score", "Encode"}


class RemoteEngine:
    """An `Engine` that is a Crayon server. Connects at first use, and again after the server was away.

    A failure before the first token is a ServerUnavailableError (or what the server said); after it, a
    ServerInterruptedError with the text so far. Requests are retried only before their first token. While
    CRAYON_LOCAL_ONLY is on every request fails with a PrivacyError, and none is sent.

    Several servers take turns; see `crayon.client.balancer`. One that fails gets nothing until its health is good
    again, and requests that it had not begun to answer go to another one.

    Args:
        address: `host:port` or `unix:/path`, or several with commas between them; on this machine, unless TLS is
            spoken. A name with several addresses stands for as many servers.
        timeout: seconds for a request that has no deadline of its own.
        connect_timeout: seconds for one attempt to connect.
        breaker: counts failures; while it is open, requests fail at once instead of waiting. Of several servers,
            each gets one with the same settings.
        ledger: where every request that is sent is noted; None: nowhere.
        access: TLS and token (`tls`, `ca_file`, `client_cert`, `client_key`, `token`, `token_file`), see
            `ServerAccess`.

    Raises:
        ConfigError: the address is malformed, or on another machine and there is no TLS; `access` is wrong; or a
            timeout is not more than 0.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 60.0,
        connect_timeout: float = 2.0,
        breaker: Breaker | None = None,
        ledger: Ledger | None = None,
        **access: Unpack[AccessOptions],
    ) -> None:
        self.address = address
        self.ledger = ledger
        for key, value in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not 0 < value < math.inf:
                raise ConfigError(key, f"must be more than 0 seconds, not {value}")
        self.retry_budget = RetryBudget()
        self._timeout = timeout
        self._fleet = Fleet(
            address,
            connect_timeout=connect_timeout,
            breaker=Breaker() if breaker is None else breaker,
            on_silent=self._leave,
            access=access,
        )
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, Attempts] = {}

    @property
    def breaker(self) -> Breaker | Breakers:
        """The server's circuit breaker; where there are several servers, what theirs come to together."""
        return self._fleet.breaker

    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """Return how each server looks from here; asks nobody."""
        return self._fleet.balancer.status()

    def models(self) -> tuple[ModelInfo, ...]:
        """Ask what is served; waits for the answer.

        Raises:
            ServerError: the server cannot be reached or answers wrongly.
            DeadlineExceededError: it did not answer within `timeout`.
        """
        message = pb.ListModelsRequest()
        return self._unary(lambda channel: _stub(channel).ListModels.future, message, None, models_from_proto).result()

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer.

        Raises:
            InvalidRequestError: the request is too large to be sent.
            EngineClosedError: after `close`.
        """
        message = generate_request_to_proto(request)
        _check_size(message, "messages")
        attempts = self._attempts(lambda channel: _stub(channel).Generate, message, request.deadline)
        if isinstance(attempts, CrayonError):
            stream = Stream()
            stream.fail(attempts)
            return stream
        stream = Stream(on_cancel=attempts.cancel)
        self._in_thread(attempts, lambda: self._feed(attempts, stream, request))
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Score continuations.

        Raises:
            InvalidRequestError, EngineClosedError: as in `generate`.
        """
        message = score_request_to_proto(request)
        _check_size(message, "continuations")
        count = len(request.continuations)
        return self._unary(
            lambda channel: _stub(channel).Score.future,
            message,
            request.deadline,
            lambda answer: score_result_from_proto(answer, count),
        )

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Embed texts.

        Raises:
            InvalidRequestError, EngineClosedError: as in `generate`.
        """
        message = encode_request_to_proto(request)
        _check_size(message, "texts")
        count = len(request.texts)
        return self._unary(
            lambda channel: _stub(channel).Encode.future,
            message,
            request.deadline,
            lambda answer: encode_result_from_proto(answer, count),
        )

    def request_bytes(self, request: GenerateRequest | ScoreRequest) -> int:
        """Return how many bytes of request `generate` or `score` sends, headers aside."""
        if isinstance(request, ScoreRequest):
            return score_request_to_proto(request).ByteSize()
        return generate_request_to_proto(request).ByteSize()

    def check(self, timeout: float = 5.0) -> ServerStatus:
        """Look at all servers, whatever the breakers say; waits at most `timeout` seconds and does not raise for it.

        Raises:
            EngineClosedError: after `close`.
            PrivacyError: CRAYON_LOCAL_ONLY is on; nothing was sent.
        """
        check_local_only()
        return self._fleet.look(timeout)

    def close(self) -> None:
        """End what runs (its callers see EngineClosedError) and disconnect. Safe to call twice."""
        self._fleet.close()
        with self._lock:
            running = dict(self._running)
        for thread, attempts in running.items():
            attempts.cancel()
            if thread is not threading.current_thread():
                thread.join()

    # -- inside

    def _attempts(self, start: Start, message: ProtoMessage, deadline: float | None) -> Attempts | CrayonError:
        """Return the attempts at a request, or why it is not tried. What is tried must be judged in the end."""
        self._fleet.check_open()
        try:
            check_local_only()
        except PrivacyError as error:
            return error
        left = self._timeout if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return DeadlineExceededError("the deadline passed before the request was sent")
        options = {"compression": grpc.Compression.Gzip} if message.ByteSize() >= COMPRESS_BYTES else {}
        method = message.DESCRIPTOR.name.removesuffix("Request")
        span = start_span(RPC, {RPC_SYSTEM: "grpc", RPC_METHOD: method}, kind=CLIENT)
        sent = self._noting(message, method) if method in CONTENT else None
        return Attempts(self._fleet, start, message, left, self.retry_budget, span, sent, **options)

    def _noting(self, message: ProtoMessage, method: str) -> Callable[[str, str], None] | None:
        """Return what notes the end of each attempt at a request in the ledger, where there is one."""
        ledger, size = self.ledger, message.ByteSize()
        if ledger is None:
            return None
        request_id: str = getattr(message, "request_id", "")

        def note(address: str, status: str) -> None:
            ledger.note(
                Sent(at=time.time(), request_id=request_id, to=address, method=method, bytes=size, status=status)
            )

        return note

    def _leave(self, address: str) -> None:
        """Send what waits for a first token at a server that has stopped to answer to others, if there are any."""
        with self._lock:
            running = list(self._running.values())
        if self._fleet.balancer.spare((address,)):
            for attempts in running:
                attempts.leave(address)

    def _end(self, attempts: Attempts, outcome: RequestOutcome) -> None:
        """Tell the server's breaker how a request ended; only the first end of one counts."""
        if attempts.pick is not None:
            self._fleet.balancer.end(attempts.pick, outcome)

    def _in_thread(self, attempts: Attempts, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._running.pop(threading.current_thread(), None)

        thread = threading.Thread(target=run, name="crayon-remote", daemon=True)
        with self._lock:
            self._running[thread] = attempts
            thread.start()

    def _feed(self, attempts: Attempts, stream: Stream, request: GenerateRequest) -> None:
        """Carry events from the call to the stream, of an answer that overlooks nothing of the request."""
        text: list[str] = []

        def read(call: Any) -> None:
            for message in call:
                if message.HasField("started"):  # before it counts as begun: it is a refusal
                    check_kept(request, message.started)
                attempts.begin()
                event = event_from_proto(message)
                if isinstance(event, Delta):
                    text.append(event.text)
                elif isinstance(event, Finished):
                    # Before the reader sees the end, so that who waits for it also finds the breaker closed.
                    self._end(attempts, RequestOutcome.ANSWERED)
                if event is not None:
                    stream.push(event)
            if not stream.closed:
                raise ServerError("the server's answer breaks the protocol: it ended without Finished")

        try:
            attempts.run(read)
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits has to be told
            # After Finished, or after the reader cancelled, the stream does not care any more; the breaker does.
            if not (stream.closed and not stream.cancelled):
                stream.fail(self._judge(error, attempts, "".join(text)))

    def _unary(
        self, start: Start, message: ProtoMessage, deadline: float | None, convert: Callable[[Any], Result]
    ) -> Future[Result]:
        attempts = self._attempts(start, message, deadline)
        if isinstance(attempts, CrayonError):
            refused = Promise[Result]()
            refused.fail(attempts)
            return refused.future
        promise = Promise[Result](on_cancel=attempts.cancel)

        def work() -> None:
            try:
                result = attempts.run(lambda call: convert(_result(call)))
                self._end(attempts, RequestOutcome.ANSWERED)
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits has to be told
                promise.fail(self._judge(error, attempts))
            else:
                promise.succeed(result)

        self._in_thread(attempts, work)
        return promise.future

    def _judge(self, error: Exception, attempts: Attempts, partial: str = "") -> CrayonError:
        """Tell the breaker what a failure means, and return what the caller should see."""
        if self._fleet.closed or attempts.cancelled:
            self._end(attempts, RequestOutcome.NEUTRAL)
            return EngineClosedError("the client was closed") if self._fleet.closed else CancelledError(str(error))
        if attempts.pick is None:
            # Nobody could be asked.
            return error if isinstance(error, CrayonError) else ServerError(repr(error))
        address = attempts.pick.address
        if isinstance(error, CancelledError):
            # Not from this side: a server or a proxy that was shut down the hard way.
            error = ServerUnavailableError("the server cancelled the request")
        if not isinstance(error, CrayonError):
            error = ServerError(f"unreadable answer: {error!r}")
        if isinstance(error, ConfigError):
            # The token's file is unreadable: nothing was sent, and nothing is known of the server.
            self._end(attempts, RequestOutcome.NEUTRAL)
            return error
        away = isinstance(error, ServerUnavailableError | DeadlineExceededError)
        if away and not (attempts.begun and isinstance(error, DeadlineExceededError)):
            self._end(attempts, RequestOutcome.FAILED)
        else:
            # It answered: even a refusal, or an answer that took too long, shows that the server is there.
            self._end(attempts, RequestOutcome.ANSWERED)
        if isinstance(error, DeadlineExceededError):
            return DeadlineExceededError(f"{address} did not finish within the deadline", partial)
        if attempts.begun:
            return ServerInterruptedError(f"{address} broke off during its answer: {error}", partial)
        if isinstance(error, ServerUnavailableError):
            return ServerUnavailableError(f"{address}: {error}")
        return error


def _stub(channel: grpc.Channel) -> inference_pb2_grpc.InferenceServiceStub:
    return inference_pb2_grpc.InferenceServiceStub(channel)


def _result(call: Any) -> Any:
    try:
        return call.result()
    except grpc.FutureCancelledError:
        # A cancelled call has a status like any other; only its future says it in this other way.
        raise CancelledError("the call was cancelled") from None


def _check_size(message: ProtoMessage, field: str) -> None:
    size = message.ByteSize()
    if size > MAX_REQUEST_BYTES:
        raise InvalidRequestError(field, f"makes a request of {size} bytes; at most {MAX_REQUEST_BYTES} are taken")
