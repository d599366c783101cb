"""A server as an engine: the same calls as on the device, answered over gRPC."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from crayon.client.breaker import Breaker
from crayon.client.channel import LazyChannel
from crayon.client.check import look
from crayon.engine import Delta, Finished, Stream
from crayon.errors import (
    CancelledError,
    ConfigError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    ServerError,
    ServerInterruptedError,
    ServerUnavailableError,
)
from crayon.v1 import inference_pb2 as pb
from crayon.v1 import inference_pb2_grpc
from crayon.wire.address import check_local
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
from crayon.wire.status import error_from_rpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message as ProtoMessage

    from crayon.client.check import ServerStatus
    from crayon.engine import EncodeRequest, EncodeResult, GenerateRequest, ModelInfo, ScoreRequest, ScoreResult

Result = TypeVar("Result")


class RemoteEngine:
    """An `Engine` that is a Crayon server. Connects at first use, and again after the server was away.

    A failure before the first token is a ServerUnavailableError (or what the server said); after it, a
    ServerInterruptedError with the text so far. Requests are retried only before their first token.

    Args:
        address: `host:port` or `unix:/path`, on this machine.
        timeout: seconds for a request that has no deadline of its own.
        connect_timeout: seconds for one attempt to connect.
        breaker: counts failures; while it is open, requests fail at once instead of waiting.

    Raises:
        ConfigError: the address is malformed or on another machine, or a timeout is not more than 0.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 60.0,
        connect_timeout: float = 2.0,
        breaker: Breaker | None = None,
    ) -> None:
        self.address = check_local(address, "server")
        for key, value in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not 0 < value < math.inf:
                raise ConfigError(key, f"must be more than 0 seconds, not {value}")
        self.breaker = Breaker() if breaker is None else breaker
        self._timeout = timeout
        self._channel = LazyChannel(self.address, connect_timeout=connect_timeout)
        self._lock = threading.Lock()
        self._readers: set[threading.Thread] = set()

    def models(self) -> tuple[ModelInfo, ...]:
        """Ask what is served; waits for the answer.

        Raises:
            ServerError: the server cannot be reached or answers wrongly.
            DeadlineExceededError: it did not answer within `timeout`.
        """
        call = self._stub().ListModels
        return self._unary(call, pb.ListModelsRequest(), None, models_from_proto).result()

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer.

        Raises:
            InvalidRequestError: the request is too large to be sent.
            EngineClosedError: after `close`.
        """
        message = generate_request_to_proto(request)
        _check_size(message, "messages")
        stub = self._stub()
        patience = self._patience(request.deadline)
        if isinstance(patience, CrayonError):
            stream = Stream()
            stream.fail(patience)
            return stream
        call = self._start(stub.Generate, message, patience)
        stream = Stream(on_cancel=call.cancel)
        reader = threading.Thread(target=self._read, args=(call, stream), name="crayon-remote", daemon=True)
        with self._lock:
            self._readers.add(reader)
        reader.start()
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
            self._stub().Score, message, request.deadline, lambda answer: score_result_from_proto(answer, count)
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
            self._stub().Encode, message, request.deadline, lambda answer: encode_result_from_proto(answer, count)
        )

    def request_bytes(self, request: GenerateRequest) -> int:
        """Return how many bytes of request `generate` sends, headers aside."""
        return generate_request_to_proto(request).ByteSize()

    def check(self, timeout: float = 5.0) -> ServerStatus:
        """Look at the server, whatever the breaker says; waits at most `timeout` seconds and does not raise for it.

        Raises:
            EngineClosedError: after `close`.
        """
        return look(self.address, self._channel.get(), timeout)

    def close(self) -> None:
        """End what runs (its callers see EngineClosedError) and disconnect. Safe to call twice."""
        self._channel.close()
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            if reader is not threading.current_thread():
                reader.join()

    # -- inside

    def _stub(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self._channel.get())

    def _patience(self, deadline: float | None) -> float | CrayonError:
        """Return the seconds a call may take, or why it is not tried. What is tried must be judged in the end."""
        left = self._timeout if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return DeadlineExceededError("the deadline passed before the request was sent")
        if not self.breaker.allow():
            wait = self.breaker.retry_after
            return ServerUnavailableError(
                f"{self.address} failed several times in a row and is left alone for {wait:.1f} s more"
            )
        return left

    def _start(self, method: Callable[..., Any], message: ProtoMessage, patience: float) -> Any:
        try:
            return method(message, timeout=patience)
        except ValueError:
            # What grpc raises for a channel that another thread closed meanwhile.
            self.breaker.neutral()
            raise EngineClosedError("the client was closed") from None

    def _read(self, call: Any, stream: Stream) -> None:
        """Carry events from the call to the stream, in a thread of its own."""
        text: list[str] = []
        begun = finished = False
        try:
            for message in call:
                begun = True
                event = event_from_proto(message)
                if isinstance(event, Delta):
                    text.append(event.text)
                elif isinstance(event, Finished):
                    # Before the reader sees the end, so that who waits for it also finds the breaker closed.
                    finished = True
                    self.breaker.success()
                if event is not None:
                    stream.push(event)
            if not finished:
                raise ServerError("the server's answer breaks the protocol: it ended without Finished")
        except grpc.RpcError:
            if not finished:
                stream.fail(self._judge(error_from_rpc(call), begun=begun, text=text, cancelled=stream.cancelled))
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits has to be told
            call.cancel()
            broken = error if isinstance(error, ServerError) else ServerError(f"unreadable answer: {error!r}")
            stream.fail(self._judge(broken, begun=begun, text=text, cancelled=stream.cancelled))
        finally:
            with self._lock:
                self._readers.discard(threading.current_thread())

    def _unary(
        self, method: Any, message: ProtoMessage, deadline: float | None, convert: Callable[[Any], Result]
    ) -> Future[Result]:
        future: Future[Result] = Future()
        patience = self._patience(deadline)
        if isinstance(patience, CrayonError):
            future.set_exception(patience)
            return future
        call = self._start(method.future, message, patience)

        def deliver(done: Any) -> None:
            outcome: Result | CrayonError
            try:
                if done.code() is grpc.StatusCode.OK:
                    outcome = convert(done.result())
                    self.breaker.success()
                else:
                    outcome = self._judge(error_from_rpc(done), cancelled=future.cancelled())
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits has to be told
                broken = error if isinstance(error, ServerError) else ServerError(f"unreadable answer: {error!r}")
                outcome = self._judge(broken)
            if not future.set_running_or_notify_cancel():
                return
            if isinstance(outcome, CrayonError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        future.add_done_callback(lambda done: call.cancel() if done.cancelled() else None)
        call.add_done_callback(deliver)
        return future

    def _judge(
        self, error: CrayonError, *, begun: bool = False, text: list[str] | None = None, cancelled: bool = False
    ) -> CrayonError:
        """Tell the breaker what a failure means, and return what the caller should see."""
        partial = "".join(text or ())
        if self._channel.closed or cancelled:
            self.breaker.neutral()
            return EngineClosedError("the client was closed") if self._channel.closed else CancelledError(str(error))
        if isinstance(error, CancelledError):
            # Not from this side: a server or a proxy that was shut down the hard way.
            error = ServerUnavailableError("the server cancelled the request")
        away = isinstance(error, ServerUnavailableError | DeadlineExceededError)
        if away and not (begun and isinstance(error, DeadlineExceededError)):
            self.breaker.failure()
        else:
            # It answered: even a refusal, or an answer that took too long, shows that the server is there.
            self.breaker.success()
        if isinstance(error, DeadlineExceededError):
            return DeadlineExceededError(f"{self.address} did not finish within the deadline", partial)
        if begun:
            return ServerInterruptedError(f"{self.address} broke off during its answer: {error}", partial)
        if isinstance(error, ServerUnavailableError):
            return ServerUnavailableError(f"{self.address}: {error}")
        return error


def _check_size(message: ProtoMessage, field: str) -> None:
    size = message.ByteSize()
    if size > MAX_REQUEST_BYTES:
        raise InvalidRequestError(field, f"makes a request of {size} bytes; at most {MAX_REQUEST_BYTES} are taken")
