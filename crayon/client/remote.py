"""A server as an engine: the same calls as on the device, answered over gRPC."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import grpc

from crayon.client.access import AccessOptions, ServerAccess
from crayon.client.attempts import Attempts
from crayon.client.breaker import Breaker, BreakerState
from crayon.client.channel import LazyChannel
from crayon.client.check import look
from crayon.client.retry_budget import RetryBudget
from crayon.engine import Delta, Finished, ScoreRequest, Stream
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
from crayon.local_only import check_local_only
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

    from google.protobuf.message import Message as ProtoMessage

    from crayon.client.check import ServerStatus
    from crayon.engine import EncodeRequest, EncodeResult, GenerateRequest, ModelInfo, ScoreResult

Result = TypeVar("Result")

MAX_ATTEMPTS = 3
# Less fits into a few packets anyway. Measured on English text: 4 KiB take 0.1 ms and become 2, 16 KiB take 0.4 ms and
# become 7. That pays where the way up is slower than some 100 Mbit/s. Answers come in pieces too small to compress.
COMPRESS_BYTES = 4096


class RemoteEngine:
    """An `Engine` that is a Crayon server. Connects at first use, and again after the server was away.

    A failure before the first token is a ServerUnavailableError (or what the server said); after it, a
    ServerInterruptedError with the text so far. Requests are retried only before their first token. While
    CRAYON_LOCAL_ONLY is on every request fails with a PrivacyError, and none is sent.

    Args:
        address: `host:port` or `unix:/path`; on this machine, unless TLS is spoken.
        timeout: seconds for a request that has no deadline of its own.
        connect_timeout: seconds for one attempt to connect.
        breaker: counts failures; while it is open, requests fail at once instead of waiting.
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
        **access: Unpack[AccessOptions],
    ) -> None:
        self._access = ServerAccess(address, **access)
        self.address = address
        for key, value in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not 0 < value < math.inf:
                raise ConfigError(key, f"must be more than 0 seconds, not {value}")
        self.breaker = Breaker() if breaker is None else breaker
        self.retry_budget = RetryBudget()
        self._timeout = timeout
        self._channel = LazyChannel(self._access, connect_timeout=connect_timeout)
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, Attempts] = {}

    def models(self) -> tuple[ModelInfo, ...]:
        """Ask what is served; waits for the answer.

        Raises:
            ServerError: the server cannot be reached or answers wrongly.
            DeadlineExceededError: it did not answer within `timeout`.
        """
        start = self._stub().ListModels.future
        return self._unary(start, pb.ListModelsRequest(), None, models_from_proto).result()

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer.

        Raises:
            InvalidRequestError: the request is too large to be sent.
            EngineClosedError: after `close`.
        """
        message = generate_request_to_proto(request)
        _check_size(message, "messages")
        attempts = self._attempts(self._stub().Generate, message, request.deadline)
        if isinstance(attempts, CrayonError):
            stream = Stream()
            stream.fail(attempts)
            return stream
        stream = Stream(on_cancel=attempts.cancel)
        self._in_thread(attempts, lambda: self._feed(attempts, stream))
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Score continuations.

        Raises:
            InvalidRequestError, EngineClosedError: as in `generate`.
        """
        message = score_request_to_proto(request)
        _check_size(message, "continuations")
        count = len(request.continuations)
        start = self._stub().Score.future
        return self._unary(start, message, request.deadline, lambda answer: score_result_from_proto(answer, count))

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Embed texts.

        Raises:
            InvalidRequestError, EngineClosedError: as in `generate`.
        """
        message = encode_request_to_proto(request)
        _check_size(message, "texts")
        count = len(request.texts)
        return self._unary(
            self._stub().Encode.future,
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
        """Look at the server, whatever the breaker says; waits at most `timeout` seconds and does not raise for it.

        Raises:
            EngineClosedError: after `close`.
            PrivacyError: CRAYON_LOCAL_ONLY is on; nothing was sent.
        """
        check_local_only()
        return look(self._access, self._channel.get(), timeout)

    def close(self) -> None:
        """End what runs (its callers see EngineClosedError) and disconnect. Safe to call twice."""
        self._channel.close()
        with self._lock:
            running = dict(self._running)
        for thread, attempts in running.items():
            attempts.cancel()
            if thread is not threading.current_thread():
                thread.join()

    # -- inside

    def _stub(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self._channel.get())

    def _attempts(
        self, start: Callable[..., Any], message: ProtoMessage, deadline: float | None
    ) -> Attempts | CrayonError:
        """Return the attempts at a request, or why it is not tried. What is tried must be judged in the end."""
        try:
            check_local_only()
        except PrivacyError as error:
            return error
        left = self._timeout if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return DeadlineExceededError("the deadline passed before the request was sent")
        most = MAX_ATTEMPTS if self.breaker.state is BreakerState.CLOSED else 1
        if not self.breaker.allow():
            wait = self.breaker.retry_after
            return ServerUnavailableError(
                f"{self.address} failed several times in a row and is left alone for {wait:.1f} s more"
            )
        if message.ByteSize() >= COMPRESS_BYTES:
            start = partial(start, compression=grpc.Compression.Gzip)
        method = message.DESCRIPTOR.name.removesuffix("Request")
        span = start_span(RPC, {RPC_SYSTEM: "grpc", RPC_METHOD: method}, kind=CLIENT)
        return Attempts(start, message, left, most, self.retry_budget, self._access.metadata, span)

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

    def _feed(self, attempts: Attempts, stream: Stream) -> None:
        """Carry events from the call to the stream."""
        text: list[str] = []

        def read(call: Any) -> None:
            for message in call:
                attempts.begun = True
                event = event_from_proto(message)
                if isinstance(event, Delta):
                    text.append(event.text)
                elif isinstance(event, Finished):
                    # Before the reader sees the end, so that who waits for it also finds the breaker closed.
                    self.breaker.success()
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
        self, start: Callable[..., Any], message: ProtoMessage, deadline: float | None, convert: Callable[[Any], Result]
    ) -> Future[Result]:
        future: Future[Result] = Future()
        attempts = self._attempts(start, message, deadline)
        if isinstance(attempts, CrayonError):
            future.set_exception(attempts)
            return future
        future.add_done_callback(lambda done: attempts.cancel() if done.cancelled() else None)

        def work() -> None:
            try:
                result = attempts.run(lambda call: convert(_result(call)))
                self.breaker.success()
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits has to be told
                failure = self._judge(error, attempts)
                if future.set_running_or_notify_cancel():
                    future.set_exception(failure)
            else:
                if future.set_running_or_notify_cancel():
                    future.set_result(result)

        self._in_thread(attempts, work)
        return future

    def _judge(self, error: Exception, attempts: Attempts, partial: str = "") -> CrayonError:
        """Tell the breaker what a failure means, and return what the caller should see."""
        if self._channel.closed or attempts.cancelled:
            self.breaker.neutral()
            return EngineClosedError("the client was closed") if self._channel.closed else CancelledError(str(error))
        if isinstance(error, CancelledError):
            # Not from this side: a server or a proxy that was shut down the hard way.
            error = ServerUnavailableError("the server cancelled the request")
        if not isinstance(error, CrayonError):
            error = ServerError(f"unreadable answer: {error!r}")
        if isinstance(error, ConfigError):
            # The token's file is unreadable: nothing was sent, and nothing is known of the server.
            self.breaker.neutral()
            return error
        away = isinstance(error, ServerUnavailableError | DeadlineExceededError)
        if away and not (attempts.begun and isinstance(error, DeadlineExceededError)):
            self.breaker.failure()
        else:
            # It answered: even a refusal, or an answer that took too long, shows that the server is there.
            self.breaker.success()
        if isinstance(error, DeadlineExceededError):
            return DeadlineExceededError(f"{self.address} did not finish within the deadline", partial)
        if attempts.begun:
            return ServerInterruptedError(f"{self.address} broke off during its answer: {error}", partial)
        if isinstance(error, ServerUnavailableError):
            return ServerUnavailableError(f"{self.address}: {error}")
        return error


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
