"""The service over a real connection: every failure is the status of the table, and nothing comes before a token."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_status import rpc_status
from serving_tools import PATIENCE, ScriptedEngine, Serving, ask, until

from crayon import errors
from crayon.client import RemoteEngine
from crayon.client.remote import COMPRESS_BYTES
from crayon.completion import Blend, FinishReason, Timings, Usage
from crayon.engine import GENERATE, Delta, EncodeRequest, Finished, ScoreRequest, Started, TokenSignal
from crayon.messages import Message
from crayon.v1 import inference_pb2 as pb
from crayon.v1.inference_pb2_grpc import InferenceServiceStub
from crayon.wire.limits import MAX_METADATA_BYTES
from crayon.wire.requests import generate_request_to_proto
from crayon.wire.status import TABLE, error_from_rpc

if TYPE_CHECKING:
    from collections.abc import Iterator

STARTED = Started("r", "scripted")
FINISHED = Finished(FinishReason.STOP, Usage(1, 1), Timings())
SCORE = pb.ScoreRequest(messages=[pb.Message(role=pb.ROLE_USER, content="x")], continuations=["y"])
ENCODE = pb.EncodeRequest(texts=["x"])
SAMPLES: dict[type[errors.CrayonError], errors.CrayonError] = {
    errors.PromptTooLongError: errors.PromptTooLongError(500, 255),
    errors.InvalidRequestError: errors.InvalidRequestError("sampling.top_p", "must be from 0 to 1"),
    errors.OverloadedError: errors.OverloadedError("64 wait", retry_after=2.5),
}


# What a status carries besides ErrorInfo.
DETAILS = {
    grpc.StatusCode.INVALID_ARGUMENT: {"BadRequest"},
    grpc.StatusCode.NOT_FOUND: {"ResourceInfo"},
    grpc.StatusCode.RESOURCE_EXHAUSTED: {"RetryInfo", "QuotaFailure"},
    grpc.StatusCode.UNAVAILABLE: {"RetryInfo"},
}


class Raw:
    """A bare gRPC client: no retries, nothing translated."""

    def __init__(self, serving: Serving) -> None:
        self.channel = grpc.insecure_channel(serving.address, options=[("grpc.enable_retries", 0)])
        self.stub = InferenceServiceStub(self.channel)

    def failure(self, method: str, request: Any, timeout: float = PATIENCE) -> Any:
        call = getattr(self.stub, method)
        with pytest.raises(grpc.RpcError) as caught:
            list(call(request, timeout=timeout))
        return caught.value


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine(STARTED, Delta("x"), FINISHED)


@pytest.fixture
def serving(scripted: ScriptedEngine) -> Iterator[Serving]:
    with Serving(lambda: scripted) as running:
        yield running


@pytest.fixture
def raw(serving: Serving) -> Iterator[Raw]:
    client = Raw(serving)
    yield client
    client.channel.close()


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("kind", "code", "reason"), TABLE)
def test_the_whole_table_over_the_wire(
    scripted: ScriptedEngine, raw: Raw, kind: Any, code: grpc.StatusCode, reason: str, at_once: bool
) -> None:
    scripted.events = (STARTED,)
    scripted.error = error = SAMPLES.get(kind) or kind("what went wrong")
    scripted.raise_at_once = at_once
    for method, request in (("Generate", generate_request_to_proto(ask())), ("Score", SCORE), ("Encode", ENCODE)):
        failure = raw.failure(method, request)
        assert failure.code() is code
        back = error_from_rpc(failure)
        assert type(back) is (errors.ServerUnavailableError if kind is errors.EngineClosedError else kind)
        assert str(back) == str(error)
        trailers = dict(failure.trailing_metadata())
        pushback = {"grpc-retry-pushback-ms": "2500"} if code is grpc.StatusCode.RESOURCE_EXHAUSTED else {}
        assert {name: value for name, value in trailers.items() if name.startswith("grpc-retry")} == pushback
        info, *others = rpc_status.from_call(failure).details
        assert reason in str(info.value)
        assert {other.TypeName().rpartition(".")[2] for other in others} == DETAILS.get(code, set())


@pytest.mark.parametrize("at_once", [True, False])
def test_a_bug_is_an_incident_here_and_there_and_tells_no_text(
    scripted: ScriptedEngine, raw: Raw, caplog: pytest.LogCaptureFixture, at_once: bool
) -> None:
    scripted.error = ValueError("cannot parse 'my secret prompt'")
    scripted.raise_at_once = at_once
    scripted.events = (STARTED,)
    failure = raw.failure("Score", SCORE)
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in failure.details()
    (record,) = (record for record in caplog.records if record.name.startswith("crayon"))
    assert record.levelno == logging.ERROR
    incident = failure.details().rpartition(" ")[2]
    assert failure.details() == f"the server failed; its log has more under incident {incident}"
    told = str(failure.trailing_metadata())
    assert "ValueError" not in told
    assert "Traceback" not in told
    assert incident in record.getMessage()
    assert "ValueError" in record.getMessage()
    assert "service.py" in record.getMessage()
    assert "secret" not in record.getMessage()
    assert record.exc_info is None


def test_our_own_words_about_a_fault_are_in_the_log(
    scripted: ScriptedEngine, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.events = (STARTED,)
    scripted.error = errors.EngineError("llama_decode returned -3")
    failure = raw.failure("Generate", generate_request_to_proto(ask()))
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert "llama_decode returned -3" in caplog.text
    assert "llama_decode" not in failure.details()


def test_an_answer_without_an_end_is_a_fault(
    scripted: ScriptedEngine, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.events = (STARTED, Delta("x"))
    call = raw.stub.Generate(generate_request_to_proto(ask()), timeout=PATIENCE)
    until(lambda: bool(scripted.streams))
    with scripted.streams[0]._ready:
        scripted.streams[0]._closed = True
        scripted.streams[0]._wake()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "without Finished" in caplog.text


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.GenerateRequest(), "messages"),
        (pb.GenerateRequest(messages=[pb.Message(role=9, content="x")]), "messages[0].role"),
        (
            pb.GenerateRequest(messages=SCORE.messages, sampling=pb.Sampling(max_tokens=0)),
            "sampling.max_tokens",
        ),
    ],
)
def test_a_wrong_request_names_its_field(raw: Raw, scripted: ScriptedEngine, message: Any, field: str) -> None:
    failure = raw.failure("Generate", message)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = error_from_rpc(failure)
    assert isinstance(error, errors.InvalidRequestError)
    assert error.field == field
    assert scripted.asked == []


def test_a_request_that_is_too_large_is_refused_unread(raw: Raw, scripted: ScriptedEngine) -> None:
    failure = raw.failure("Encode", pb.EncodeRequest(texts=["x" * (5 * 2**20)]))
    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert scripted.asked == []


def test_a_request_that_grows_when_it_is_unpacked_is_refused_unread(raw: Raw, scripted: ScriptedEngine) -> None:
    bomb = pb.EncodeRequest(texts=["x" * (64 * 2**20)])
    with pytest.raises(grpc.RpcError) as caught:
        raw.stub.Encode(bomb, timeout=PATIENCE, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert scripted.asked == []
    assert raw.stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models


def wanted(remote: RemoteEngine, text: str) -> Any:
    attempts: Any = remote._attempts(print, generate_request_to_proto(ask(text)), None)
    return attempts.options.get("compression")


def test_a_long_prompt_arrives_compressed(serving: Serving, scripted: ScriptedEngine) -> None:
    remote = RemoteEngine(serving.address)
    text = "and so on and on " * 1000
    assert [wanted(remote, part) for part in (text[: COMPRESS_BYTES // 2], text)] == [None, grpc.Compression.Gzip]
    list(remote.generate(ask(text)))
    assert [request.messages[0].content for request in scripted.asked] == [text]  # type: ignore[union-attr] # it is a GenerateRequest
    remote.close()


def test_too_much_metadata_is_refused(raw: Raw, scripted: ScriptedEngine) -> None:
    request = generate_request_to_proto(ask())
    for size, refused in (
        (MAX_METADATA_BYTES // 2, False),
        (MAX_METADATA_BYTES + 1, True),
        (10 * MAX_METADATA_BYTES, True),
    ):
        call = raw.stub.Generate(request, timeout=PATIENCE, metadata=(("x-bomb", "x" * size),))
        if not refused:
            assert len(list(call)) == 3
            continue
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(scripted.asked) == 1
    assert raw.stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models


def test_an_unknown_model_is_named_with_those_there_are(raw: Raw) -> None:
    failure = raw.failure("Generate", generate_request_to_proto(ask(model="big")))
    assert failure.code() is grpc.StatusCode.NOT_FOUND
    assert failure.details() == "model 'big' is not served here; there is: scripted"


def test_what_a_model_cannot_do_is_refused_before_the_engine(scripted: ScriptedEngine, raw: Raw) -> None:
    scripted.capabilities = frozenset({GENERATE})
    assert raw.failure("Score", SCORE).code() is grpc.StatusCode.UNIMPLEMENTED
    assert raw.failure("Encode", ENCODE).code() is grpc.StatusCode.UNIMPLEMENTED
    failure = raw.failure("Generate", generate_request_to_proto(ask(blend=Blend("pool", (1.0,)))))
    assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert type(error_from_rpc(failure)) is errors.AdapterError
    assert scripted.asked == []


def test_an_unknown_method_is_unimplemented(raw: Raw) -> None:
    call = raw.channel.unary_unary("/crayon.v1.InferenceService/Nothing")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_noise_is_no_request(raw: Raw, scripted: ScriptedEngine) -> None:
    call = raw.channel.unary_unary("/crayon.v1.InferenceService/Score")
    with pytest.raises(grpc.RpcError):
        call(b"\xff\xff\xff noise", timeout=PATIENCE)
    assert scripted.asked == []
    assert raw.stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models[0].name == "scripted"


def test_nothing_is_sent_before_the_first_token(raw: Raw, scripted: ScriptedEngine) -> None:
    scripted.events = (STARTED,)
    call = raw.stub.Generate(generate_request_to_proto(ask()), timeout=PATIENCE)
    until(lambda: bool(scripted.streams))
    headers: list[Any] = []
    call.add_callback(lambda: None)
    # A second answer on the same connection goes through and back, so anything sent for the first one has arrived.
    for _ in range(3):
        raw.stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE)
    with call._state.condition:
        headers.append(call._state.initial_metadata)
    assert headers == [None]
    scripted.streams[0].push(Delta("x"))
    scripted.streams[0].push(FINISHED)
    assert [answer.WhichOneof("event") for answer in call] == ["started", "delta", "finished"]


def test_what_is_queued_is_joined(raw: Raw, scripted: ScriptedEngine) -> None:
    signals = [TokenSignal(-0.5, 0.25, 0.5), TokenSignal(-1.0, 1.5, 0.125)]
    scripted.events = (STARTED, Delta("a", (signals[0],)), Delta(""), Delta("b", (signals[1],)), FINISHED)
    answers = list(raw.stub.Generate(generate_request_to_proto(ask()), timeout=PATIENCE))
    assert [answer.WhichOneof("event") for answer in answers] == ["started", "delta", "finished"]
    assert answers[1].delta.text == "ab"
    assert [signal.entropy for signal in answers[1].delta.signals] == [0.25, 1.5]


def test_what_came_before_a_failure_is_delivered_first(raw: Raw, scripted: ScriptedEngine) -> None:
    scripted.events = (STARTED, Delta("half"))
    scripted.error = errors.OverloadedError("squeezed out")
    call = raw.stub.Generate(generate_request_to_proto(ask()), timeout=PATIENCE)
    assert [next(call).WhichOneof("event"), next(call).delta.text] == ["started", "half"]
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
@pytest.mark.parametrize("begun", [True, False])
def test_an_rpc_that_ends_early_cancels_the_engine(
    raw: Raw, serving: Serving, scripted: ScriptedEngine, how: str, begun: bool
) -> None:
    scripted.events = (STARTED, Delta("x")) if begun else (STARTED,)
    call = raw.stub.Generate(generate_request_to_proto(ask()), timeout=1.0 if how == "deadline" else PATIENCE)
    until(lambda: bool(scripted.streams))
    if begun:
        next(call)
    if how == "cancel":
        call.cancel()
    elif how == "disconnect":
        raw.channel.close()
    until(lambda: scripted.streams[0].cancelled)
    until(lambda: serving.server.running == 0)


@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
@pytest.mark.parametrize(("method", "request_"), [("Score", SCORE), ("Encode", ENCODE)])
def test_a_unary_rpc_that_ends_early_cancels_the_future(
    raw: Raw, serving: Serving, scripted: ScriptedEngine, how: str, method: str, request_: Any
) -> None:
    call = getattr(raw.stub, method).future(request_, timeout=1.0 if how == "deadline" else PATIENCE)
    until(lambda: bool(scripted.futures))
    if how == "cancel":
        call.cancel()
    elif how == "disconnect":
        raw.channel.close()
    until(lambda: scripted.futures[0].cancelled())
    until(lambda: serving.server.running == 0)


def test_an_engine_that_drops_a_request_is_unavailable(raw: Raw, scripted: ScriptedEngine) -> None:
    call = raw.stub.Score.future(SCORE, timeout=PATIENCE)
    until(lambda: bool(scripted.futures))
    scripted.futures[0].cancel()
    assert call.exception().code() is grpc.StatusCode.UNAVAILABLE


def test_a_caller_without_a_deadline_gets_the_servers(scripted: ScriptedEngine) -> None:
    with Serving(lambda: scripted, default_deadline=500.0) as running:
        raw = Raw(running)
        list(raw.stub.Generate(generate_request_to_proto(ask())))
        raw.channel.close()
    (request,) = scripted.asked
    assert request.deadline is not None
    assert 400 < request.deadline - time.monotonic() <= 500


async def test_it_is_fed_from_asyncio_clients_too(serving: Serving) -> None:
    remote = RemoteEngine(serving.address)
    events = [event async for event in remote.generate(ask())]
    assert events == [STARTED, Delta("x"), FINISHED]
    remote.close()


def test_requests_arrive_whole(serving: Serving, scripted: ScriptedEngine) -> None:
    remote = RemoteEngine(serving.address)
    messages = (Message("system", "Sei kurz."), Message("user", "東京?"))
    wanted = ask(temperature=0.7, stop=("\n",), seed=5, blend=Blend("p", (0.25,)), request_id="r-1")
    list(remote.generate(wanted))
    remote.score(ScoreRequest(messages=messages, continuations=("a", "b")))
    remote.encode(EncodeRequest(texts=("c",)))
    until(lambda: len(scripted.asked) == 3)
    generated, scored, encoded = sorted(scripted.asked, key=lambda request: "GSE".index(type(request).__name__[0]))
    assert (generated.sampling, generated.blend, generated.request_id) == (wanted.sampling, wanted.blend, "r-1")  # type: ignore[union-attr] # sorted by type
    assert (scored.messages, scored.continuations) == (messages, ("a", "b"))  # type: ignore[union-attr] # as above
    assert encoded.texts == ("c",)  # type: ignore[union-attr] # as above
    remote.close()
