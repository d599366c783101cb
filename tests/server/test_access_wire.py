"""Who may call, over real gRPC: tokens, limits, and the guard in front of every method."""

from __future__ import annotations

import contextlib
import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from serving_tools import LONG, PATIENCE, ScriptedEngine, Serving, ask, until

from crayon.client import RemoteEngine
from crayon.client.events import EventClient
from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import EncodeRequest, Finished, ScoreRequest, Started
from crayon.errors import ConfigError, OverloadedError, UnauthenticatedError
from crayon.messages import Message
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.limits import Limits
from crayon.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN, OTHER = "alice-0123456789abcdef", "other-0123456789abcdef"
SERVICE = pb.DESCRIPTOR.services_by_name["InferenceService"]
METHODS = [f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"alice:{TOKEN}\nother:{OTHER}\n")
    return path


@pytest.fixture
def guarded(tokens: Path) -> Iterator[Serving]:
    with Serving(EchoEngine, tokens_file=tokens) as running:
        yield running


def refusal(address: str, method: str, metadata: Any, *, streams: bool) -> grpc.RpcError:
    """Call a method with bytes that are no message, and return how it was refused."""
    with grpc.insecure_channel(address) as channel:
        make, request = (channel.stream_stream, iter([b"\xff"])) if streams else (channel.unary_stream, b"\xff")
        call = make(method)(request, timeout=PATIENCE, metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    return caught.value


@pytest.mark.parametrize("method", [*METHODS, REFLECTION, "/no/Such"])
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer wrong-0123456789abcdef"),),
        (("authorization", "Bearer "),),
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization", TOKEN),),
        (("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer wrong-0123456789abcdef")),
    ],
)
def test_without_the_right_token_no_method_reads_its_request(guarded: Serving, method: str, metadata: Any) -> None:
    # Bytes that are no message would be INVALID_ARGUMENT, and an unknown method UNIMPLEMENTED.
    failure = refusal(guarded.address, method, metadata, streams=method == REFLECTION)
    assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(failure).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("UNAUTHENTICATED", "crayon")


def test_with_the_right_token_every_method_answers(guarded: Serving) -> None:
    metadata = (("authorization", f"bearer {TOKEN}"),)
    with closing(RemoteEngine(guarded.address, token=TOKEN)) as remote:
        assert isinstance(list(remote.generate(ask()))[-1], Finished)
        assert remote.models()
        messages = (Message("user", "a"),)
        assert remote.score(ScoreRequest(messages=messages, continuations=("b",))).result(PATIENCE).scores
        assert len(remote.encode(EncodeRequest(texts=("a",))).result(PATIENCE).vectors) == 1
        assert remote.check(PATIENCE).serving
    assert refusal(guarded.address, "/no/Such", metadata, streams=False).code() is grpc.StatusCode.UNIMPLEMENTED
    generate = "/crayon.v1.InferenceService/Generate"
    assert refusal(guarded.address, generate, metadata, streams=False).code() is grpc.StatusCode.INVALID_ARGUMENT
    with grpc.insecure_channel(guarded.address) as plain:
        channel = grpc.intercept_channel(plain, _Shows(metadata))
        assert "crayon.v1.InferenceService" in ProtoReflectionDescriptorDatabase(channel).get_services()


class _Shows(grpc.StreamStreamClientInterceptor):  # type: ignore[misc] # the stub's base class is Any
    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), requests)


async def test_the_event_client_shows_its_token(guarded: Serving, tmp_path: Path) -> None:
    file = tmp_path / "own"
    file.touch(mode=0o600)
    file.write_text(f"{TOKEN}\n")
    async with EventClient(guarded.address, token_file=file) as client:
        events = [event async for event in client.generate(ask())]
    assert isinstance(events[-1], Finished)
    async with EventClient(guarded.address) as client:
        with pytest.raises(UnauthenticatedError):
            [event async for event in client.generate(ask())]


def test_health_is_open_while_everything_else_is_closed(guarded: Serving) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        assert stub.Check(request, timeout=PATIENCE).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(request, timeout=PATIENCE)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    with closing(RemoteEngine(guarded.address)) as stranger:
        status = stranger.check(PATIENCE)
        assert (status.reachable, status.serving, status.unauthenticated) == (True, False, True)
        assert "--token-file" in status.problem


def test_a_revoked_token_is_refused_and_a_new_one_is_taken(guarded: Serving, tokens: Path) -> None:
    with closing(RemoteEngine(guarded.address, token=TOKEN)) as remote:
        running = remote.generate(ask())
        assert isinstance(next(running), Started)
        tokens.write_text("alice:brand-new-0123456789abcdef\n")
        assert remote.models()
        assert guarded.server.reload() == "reloaded: 1 token(s)"
        assert isinstance(list(running)[-1], Finished)
        with pytest.raises(UnauthenticatedError, match="any more"):
            remote.models()
    with closing(RemoteEngine(guarded.address, token="brand-new-0123456789abcdef")) as remote:
        assert remote.models()
        tokens.write_text("broken")
        assert "unusable" in guarded.server.reload()
        assert remote.models()


def test_the_clients_token_file_is_read_again_when_it_changes(guarded: Serving, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.touch(mode=0o600)
    own.write_text("wrong-0123456789abcdef")
    with closing(RemoteEngine(guarded.address, token_file=own)) as remote:
        with pytest.raises(UnauthenticatedError):
            remote.models()
        own.write_text(f"{TOKEN}\n")
        assert remote.models()
        own.unlink()
        with pytest.raises(ConfigError, match="token_file: cannot read"):
            remote.models()


def test_tokens_are_never_logged(tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Serving(EchoEngine, tokens_file=tokens) as running:
        for token in (TOKEN, "wrong-0123456789abcdef"):
            with (
                closing(RemoteEngine(running.address, token=token)) as remote,
                contextlib.suppress(UnauthenticatedError),
            ):
                remote.models()
        running.server.reload()
    assert "refused" in caplog.text
    assert "0123456789abcdef" not in caplog.text


# -- limits, and whose requests they are


def test_two_connections_of_one_token_are_one_client(tokens: Path) -> None:
    engine = ScriptedEngine(Started("1", "scripted"), Finished(FinishReason.STOP, Usage(1, 1), Timings()))
    with Serving(lambda: engine, tokens_file=tokens) as running:
        for token in (TOKEN, TOKEN, OTHER):
            with closing(RemoteEngine(running.address, token=token)) as remote:
                list(remote.generate(ask()))
    assert [request.client for request in engine.asked] == ["token:alice", "token:alice", "token:other"]


def test_without_tokens_an_address_is_a_client_whatever_its_port() -> None:
    engine = ScriptedEngine(Started("1", "scripted"), Finished(FinishReason.STOP, Usage(1, 1), Timings()))
    with Serving(lambda: engine) as running:
        for _ in range(2):
            with closing(RemoteEngine(running.address)) as remote:
                list(remote.generate(ask()))
    assert [request.client for request in engine.asked] == ["ipv4:127.0.0.1"] * 2


def test_requests_a_minute_are_refused_with_a_time_to_come_again(tokens: Path) -> None:
    with Serving(EchoEngine, tokens_file=tokens, limits=Limits(requests_per_minute=2)) as running:
        with closing(RemoteEngine(running.address, token=TOKEN)) as remote:
            assert remote.models()
            assert remote.models()
            with pytest.raises(OverloadedError, match="2 requests a minute") as caught:
                remote.models()
            assert 0 < caught.value.retry_after <= 30
            assert caught.value.subject == "token:alice"
            with pytest.raises(OverloadedError):
                list(remote.generate(ask()))
        with closing(RemoteEngine(running.address, token=OTHER)) as remote:
            assert remote.models()


def test_concurrent_requests_are_refused_until_one_ends(tokens: Path) -> None:
    engine = EchoEngine(delay=0.05, context_tokens=8192)
    with (
        Serving(lambda: engine, tokens_file=tokens, limits=Limits(concurrent=1)) as running,
        closing(RemoteEngine(running.address, token=TOKEN)) as remote,
    ):
        stream = remote.generate(ask(LONG))
        assert isinstance(next(stream), Started)
        with pytest.raises(OverloadedError, match="1 requests running") as caught:
            remote.models()
        assert caught.value.subject == "token:alice"
        stream.cancel()

        def free() -> bool:
            with contextlib.suppress(OverloadedError):
                return bool(remote.models())
            return False

        until(free)


def test_tokens_a_minute_are_charged_by_usage(tokens: Path) -> None:
    engine = ScriptedEngine(Started("1", "scripted"), Finished(FinishReason.STOP, Usage(70, 31), Timings()))
    with (
        Serving(lambda: engine, tokens_file=tokens, limits=Limits(tokens_per_minute=100)) as running,
        closing(RemoteEngine(running.address, token=TOKEN)) as remote,
    ):
        list(remote.generate(ask()))

        def refused() -> bool:
            # The charge follows the last event, which is here first.
            try:
                list(remote.generate(ask()))
            except OverloadedError as error:
                return error.retry_after <= 130 and "100 tokens a minute" in str(error)
            return False

        until(refused)
        assert len(engine.asked) <= 2


def test_who_hangs_up_pays_for_what_was_computed(tokens: Path) -> None:
    engine = EchoEngine(delay=0.02, context_tokens=8192)
    with (
        Serving(lambda: engine, tokens_file=tokens, limits=Limits(tokens_per_minute=100)) as running,
        closing(RemoteEngine(running.address, token=TOKEN)) as remote,
    ):
        stream = remote.generate(ask(LONG))
        assert isinstance(next(stream), Started)
        stream.cancel()

        def refused() -> bool:
            try:
                return not remote.models()
            except OverloadedError:
                return True

        until(refused)


def test_who_gives_scoring_up_pays_for_what_was_computed(tokens: Path) -> None:
    engine = ScriptedEngine()
    engine.used = 150
    with (
        Serving(lambda: engine, tokens_file=tokens, limits=Limits(tokens_per_minute=100)) as running,
        closing(RemoteEngine(running.address, token=TOKEN)) as remote,
    ):
        asked = remote.score(ScoreRequest(messages=(Message("user", "hi"),), continuations=("a", "b")))
        until(lambda: bool(engine.asked))
        asked.cancel()

        def refused() -> bool:
            try:
                return not remote.models()
            except OverloadedError:
                return True

        until(refused)


# -- where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_machines_are_let_in_only_with_tokens_and_tls_or_where_the_operator_insists(host: str) -> None:
    with pytest.raises(ConfigError, match=r"plain text; give --tls-cert .* \(--insecure-plain-text"):
        ServeConfig(host=host)
    with pytest.raises(ConfigError, match=r"could use this server; .* \(--insecure-no-tokens"):
        ServeConfig(host=host, insecure_plain_text=True)
    config = ServeConfig(host=host, insecure_plain_text=True, insecure_no_tokens=True)
    assert [text.partition(":")[0] for text in config.warnings] == ["INSECURE"] * 2
    assert ServeConfig(insecure_plain_text=True, insecure_no_tokens=True).warnings == ()


@pytest.mark.parametrize("host", ["", "unix:"])
def test_no_address_at_all_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"^host: must be"):
        ServeConfig(host=host, insecure_plain_text=True, insecure_no_tokens=True)


@pytest.mark.parametrize("token", ["short", "has a space in it", "x" * 2000])
def test_a_malformed_token_is_refused_before_anything_is_sent(token: str) -> None:
    with pytest.raises(ConfigError, match=r"^token: ") as caught:
        RemoteEngine("127.0.0.1:1", token=token)
    assert token not in str(caught.value)


def test_no_token_goes_to_another_machine_as_plain_text() -> None:
    with pytest.raises(ConfigError, match="plain text"):
        RemoteEngine("192.0.2.1:443", token=TOKEN)
    RemoteEngine("192.0.2.1:443", token=TOKEN, tls=True).close()
