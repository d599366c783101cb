"""The remote engine against a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from serving_tools import LONG, PATIENCE, ScriptedEngine, Serving, ask, until

from crayon.client import Breaker, BreakerState, RemoteEngine
from crayon.completion import Blend, FinishReason, Timings, Usage
from crayon.constraint import Constraint, ConstraintKind
from crayon.engine import (
    Delta,
    EncodeRequest,
    Engine,
    Finished,
    ScoreRequest,
    Started,
    deadline_after,
)
from crayon.errors import (
    CancelledError,
    ConfigError,
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    ServerInterruptedError,
    ServerRejectedError,
    ServerUnavailableError,
    UnknownModelError,
)
from crayon.messages import Message
from crayon.server.engines.echo import EchoEngine
from crayon.v1 import inference_pb2 as pb
from crayon.v1.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server
from crayon.wire.limits import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.engine import GenerateRequest, Stream

FINISHED = Finished(FinishReason.STOP, Usage(1, 1), Timings())


@pytest.fixture
def echo() -> EchoEngine:
    return EchoEngine(delay=0.001, context_tokens=8192)


@pytest.fixture
def serving(echo: EchoEngine) -> Iterator[Serving]:
    with Serving(lambda: echo) as running:
        yield running


@pytest.fixture
def remote(serving: Serving) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(serving.address)
    yield engine
    engine.close()


def scored(text: str = "x", **more: Any) -> ScoreRequest:
    return ScoreRequest(messages=(Message("user", "hello"),), continuations=(text,), **more)


def test_an_answer_streams(remote: RemoteEngine) -> None:
    blend = Blend("pool", (0.5, -0.25))
    started, *deltas, finished = list(remote.generate(ask("Grüße an 東京 und alle", request_id="r-1", blend=blend)))
    assert isinstance(remote, Engine)
    assert started == Started("r-1", "echo", blend)
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == "Grüße an 東京 und alle"
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(5, 5)
    assert sum(len(delta.signals) for delta in deltas if isinstance(delta, Delta)) == 5


def test_the_remote_answer_is_the_local_one(remote: RemoteEngine, echo: EchoEngine) -> None:
    here = [event for event in echo.generate(ask(request_id="r")) if not isinstance(event, Finished)]
    there = [event for event in remote.generate(ask(request_id="r")) if not isinstance(event, Finished)]
    assert signals(there) == [pytest.approx(numbers, rel=1e-6) for numbers in signals(here)]
    score = [engine.score(scored("hello you")).result(PATIENCE) for engine in (echo, remote)]
    assert score[0] == score[1]
    vectors = [engine.encode(EncodeRequest(texts=("a", "b c"))).result(PATIENCE).vectors for engine in (echo, remote)]
    assert np.array_equal(vectors[0], vectors[1])
    assert echo.models() == remote.models()


def signals(events: list[Any]) -> list[tuple[float, float, float]]:
    found = [signal for event in events if isinstance(event, Delta) for signal in event.signals]
    return [(signal.logprob, signal.entropy, signal.margin) for signal in found]


async def test_it_is_read_from_asyncio(remote: RemoteEngine) -> None:
    answers = await asyncio.gather(*(read(remote, f"number {i} speaks") for i in range(12)))
    assert answers == [f"number {i} speaks" for i in range(12)]
    result = await asyncio.wrap_future(remote.score(scored()))
    assert len(result.scores) == 1


async def read(remote: RemoteEngine, text: str) -> str:
    return "".join([event.text async for event in remote.generate(ask(text)) if isinstance(event, Delta)])


def test_what_the_server_refuses_is_the_callers_error(remote: RemoteEngine) -> None:
    with pytest.raises(UnknownModelError, match="'other' is not served"):
        list(remote.generate(ask(model="other")))
    with pytest.raises(InvalidRequestError, match="texts"):
        remote.encode(EncodeRequest(texts=("a",) * 2000)).result(PATIENCE)
    assert remote.breaker.state is BreakerState.CLOSED


def test_a_request_that_is_too_large_is_not_sent(remote: RemoteEngine, echo: EchoEngine) -> None:
    huge = "word " * (MAX_REQUEST_BYTES // 5 + 1)
    assert remote.request_bytes(ask(huge)) > MAX_REQUEST_BYTES
    with pytest.raises(InvalidRequestError, match=r"^messages: makes a request of \d+ bytes"):
        remote.generate(ask(huge))
    with pytest.raises(InvalidRequestError, match=r"^texts: "):
        remote.encode(EncodeRequest(texts=(huge,)))
    assert echo.running == 0


def test_request_bytes_counts_what_is_sent(remote: RemoteEngine) -> None:
    plain = remote.request_bytes(ask("a", request_id="r"))
    assert remote.request_bytes(ask("a" * 101, request_id="r")) in range(plain + 100, plain + 104)


def test_request_bytes_counts_the_choices_that_are_scored(remote: RemoteEngine) -> None:
    def size(*texts: str) -> int:
        messages = (Message("user", "a"),)
        return remote.request_bytes(ScoreRequest(messages=messages, continuations=texts, request_id="r"))

    assert size("b", "c" * 100) in range(size("b") + 100, size("b") + 104)
    assert size("b") < remote.request_bytes(ask("a", request_id="r")), "no sampling is sent"


def test_cancelling_frees_the_slot() -> None:
    slow = EchoEngine(delay=0.05, context_tokens=8192)
    with Serving(lambda: slow) as running:
        remote = RemoteEngine(running.address)
        stream = remote.generate(ask(LONG))
        assert isinstance(next(stream), Started)
        assert slow.running == 1
        stream.cancel()
        until(lambda: slow.running == 0)
        with pytest.raises(CancelledError):
            list(stream)
        remote.close()


def test_cancelling_a_future_frees_the_slot() -> None:
    slow = EchoEngine(delay=PATIENCE)
    with Serving(lambda: slow) as running:
        remote = RemoteEngine(running.address)
        future = remote.score(scored())
        until(lambda: slow.running == 1)
        assert future.cancel()
        until(lambda: slow.running == 0)
        with pytest.raises(FutureCancelledError):
            future.result(PATIENCE)
        assert remote.breaker.state is BreakerState.CLOSED
        remote.close()


def test_a_client_that_disconnects_frees_the_slot() -> None:
    slow = EchoEngine(delay=0.05, context_tokens=8192)
    with Serving(lambda: slow) as running:
        remote = RemoteEngine(running.address)
        stream = remote.generate(ask(LONG))
        next(stream)
        assert slow.running == 1
        remote.close()
        until(lambda: slow.running == 0)
        with pytest.raises(EngineClosedError):
            list(stream)


def test_a_deadline_reaches_the_engine_and_carries_the_start() -> None:
    slow = EchoEngine(delay=0.02, context_tokens=8192)
    with Serving(lambda: slow) as running:
        remote = RemoteEngine(running.address)
        with pytest.raises(DeadlineExceededError, match="did not finish") as caught:
            list(remote.generate(ask(LONG, deadline=deadline_after(1.0))))
        assert LONG.startswith(caught.value.partial)
        assert caught.value.partial
        until(lambda: slow.running == 0)
        remote.close()


def test_the_engine_sees_the_callers_deadline_and_a_default_one() -> None:
    scripted = ScriptedEngine(Started("r", "scripted"), FINISHED)
    with Serving(lambda: scripted) as running:
        remote = RemoteEngine(running.address, timeout=500.0)
        mine = deadline_after(100.0)
        list(remote.generate(ask(deadline=mine)))
        list(remote.generate(ask()))
        remote.close()
    seen = [request.deadline for request in scripted.asked]
    assert seen[0] == pytest.approx(mine, abs=5.0)
    assert seen[1] == pytest.approx(deadline_after(500.0), abs=20.0)


def test_a_deadline_in_the_past_is_not_sent(remote: RemoteEngine, echo: EchoEngine) -> None:
    with pytest.raises(DeadlineExceededError, match="before the request was sent"):
        list(remote.generate(ask(deadline=1.0)))
    with pytest.raises(DeadlineExceededError):
        remote.score(scored(deadline=1.0)).result(PATIENCE)
    assert remote.breaker.state is BreakerState.CLOSED


def test_a_failure_after_the_first_token_carries_the_text() -> None:
    scripted = ScriptedEngine(Started("r", "scripted"), Delta("half an "), error=OverloadedError("out of memory"))
    with Serving(lambda: scripted) as running:
        remote = RemoteEngine(running.address)
        stream = remote.generate(ask())
        assert [next(stream), next(stream)] == [Started("r", "scripted"), Delta("half an ")]
        with pytest.raises(ServerInterruptedError, match="out of memory") as caught:
            next(stream)
        assert caught.value.partial == "half an "
        remote.close()


def test_a_failure_before_the_first_token_is_what_it_is() -> None:
    scripted = ScriptedEngine(Started("r", "scripted"), error=OverloadedError("all slots taken", retry_after=2.0))
    with Serving(lambda: scripted) as running:
        remote = RemoteEngine(running.address)
        with pytest.raises(OverloadedError) as caught:
            list(remote.generate(ask()))
        assert caught.value.retry_after == 2.0
        assert remote.breaker.state is BreakerState.CLOSED
        remote.close()


class Flaky(ScriptedEngine):
    """Leaves the queue and is unavailable, twice; then well."""

    def generate(self, request: GenerateRequest) -> Stream:
        well = len(self.asked) >= 2
        self.events = (Started("r", "scripted"), Delta("well"), FINISHED) if well else (Started("r", "scripted"),)
        self.error = None if well else ServerUnavailableError("not now")
        return super().generate(request)


def test_unavailable_is_retried_while_nothing_has_come() -> None:
    # That this works also shows that Started alone sends nothing, not even headers: they would commit the call.
    flaky = Flaky()
    with Serving(lambda: flaky) as running:
        remote = RemoteEngine(running.address)
        assert list(remote.generate(ask())) == [Started("r", "scripted"), Delta("well"), FINISHED]
        assert len(flaky.asked) == 3
        assert remote.breaker.state is BreakerState.CLOSED
        remote.close()


def test_an_interrupted_answer_is_not_retried() -> None:
    broken = ScriptedEngine(Started("r", "scripted"), Delta("x"), error=ServerUnavailableError("gone"))
    with Serving(lambda: broken) as running:
        remote = RemoteEngine(running.address)
        with pytest.raises(ServerInterruptedError):
            list(remote.generate(ask()))
        assert len(broken.asked) == 1
        remote.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nobody_there_and_then_the_breaker() -> None:
    remote = RemoteEngine(f"127.0.0.1:{free_port()}", breaker=Breaker(failures=2, cooldown=600.0))
    with pytest.raises(ServerUnavailableError, match=r"^127\.0\.0\.1:\d+: "):
        list(remote.generate(ask()))
    with pytest.raises(ServerUnavailableError):
        remote.score(scored()).result(PATIENCE)
    assert remote.breaker.state is BreakerState.OPEN
    with pytest.raises(ServerUnavailableError, match=r"left alone for \d+\.\d s more"):
        list(remote.generate(ask()))
    with pytest.raises(ServerUnavailableError, match="left alone"):
        remote.models()
    status = remote.check(1.0)
    assert (status.reachable, status.serving, status.models) == (False, False, ())
    assert status.problem
    remote.close()


def test_a_listener_that_never_speaks_is_given_up_on() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        remote = RemoteEngine(f"127.0.0.1:{deaf.getsockname()[1]}", timeout=PATIENCE, connect_timeout=0.3)
        with pytest.raises(ServerUnavailableError):
            list(remote.generate(ask()))
        remote.close()


def test_the_same_object_works_again_after_a_restart(echo: EchoEngine) -> None:
    with Serving(lambda: echo) as first:
        remote = RemoteEngine(first.address, breaker=Breaker(failures=10**6))
        assert remote.check().serving
        port = first.port
    with pytest.raises(ServerUnavailableError):
        list(remote.generate(ask()))
    with Serving(EchoEngine, port=port):
        until(lambda: remote.check(1.0).serving)
        assert isinstance(list(remote.generate(ask()))[-1], Finished)
    remote.close()


def test_check_tells_what_there_is(serving: Serving, remote: RemoteEngine) -> None:
    status = remote.check()
    assert (status.reachable, status.serving, status.problem) == (True, True, "")
    assert [model.name for model in status.models] == ["echo"]
    assert status.round_trip_ms > 0


class Odd(InferenceServiceServicer):
    """A server that is not ours."""

    def __init__(self, *answers: pb.GenerateResponse) -> None:
        self.answers = answers

    def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        yield from self.answers

    def Score(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return pb.ScoreResponse()

    def Encode(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return pb.EncodeResponse()

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return pb.ListModelsResponse()


@contextlib.contextmanager
def odd(*answers: pb.GenerateResponse) -> Iterator[RemoteEngine]:
    server = grpc.server(ThreadPoolExecutor(2))
    add_InferenceServiceServicer_to_server(Odd(*answers), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    remote = RemoteEngine(f"127.0.0.1:{port}")
    yield remote
    remote.close()
    server.stop(None).wait()


def test_a_server_that_does_not_know_constraints_is_not_taken_to_keep_one() -> None:
    """An old server reads past the field; what it writes is none of what was asked for."""
    written = (
        pb.GenerateResponse(started=pb.Started(request_id="r", model="old")),
        pb.GenerateResponse(delta=pb.Delta(text="prose", tokens=1)),
        pb.GenerateResponse(finished=pb.Finished(finish_reason=pb.FINISH_REASON_STOP)),
    )
    constraint = Constraint(ConstraintKind.REGEX, "[0-9]+")
    with odd(*written) as remote:
        assert "".join(event.text for event in remote.generate(ask()) if isinstance(event, Delta)) == "prose"
        stream = remote.generate(replace(ask(), constraint=constraint))
        with pytest.raises(ServerRejectedError, match="'old' does not know constraints, so regex would be ignored"):
            list(stream)


@pytest.mark.parametrize(
    ("answers", "kind", "what"),
    [
        ((), ServerError, "ended without Finished"),
        ((pb.GenerateResponse(started=pb.Started()),), ServerInterruptedError, "ended without Finished"),
        ((pb.GenerateResponse(finished=pb.Finished()),), ServerInterruptedError, "finish_reason: 0 is unknown"),
        ((pb.GenerateResponse(),), ServerInterruptedError, "ended without Finished"),
    ],
)
def test_answers_that_break_the_protocol_are_the_servers_fault(
    answers: tuple[pb.GenerateResponse, ...], kind: type[ServerError], what: str
) -> None:
    with odd(*answers) as remote:
        with pytest.raises(ServerError, match=what) as caught:
            list(remote.generate(ask()))
        assert type(caught.value) is kind
        with pytest.raises(ServerError, match="breaks the protocol: scores"):
            remote.score(scored()).result(PATIENCE)
        with pytest.raises(ServerError, match="breaks the protocol: values"):
            remote.encode(EncodeRequest(texts=("x",))).result(PATIENCE)
        # It has no health service, and is there all the same.
        status = remote.check(PATIENCE)
        assert (status.reachable, status.serving) == (True, False)
        assert status.problem


def test_closing_ends_what_runs_and_leaves_no_thread() -> None:
    slow = EchoEngine(delay=0.05, context_tokens=8192)
    with Serving(lambda: slow) as running:
        remote = RemoteEngine(running.address)
        streams = [remote.generate(ask(LONG)) for _ in range(3)]
        future = remote.score(scored())
        remote.close()
        remote.close()
        for stream in streams:
            with pytest.raises(EngineClosedError):
                list(stream)
        with pytest.raises(EngineClosedError):
            future.result(PATIENCE)
        with pytest.raises(EngineClosedError, match="was closed"):
            remote.generate(ask())
        assert not [thread for thread in threading.enumerate() if thread.name == "crayon-remote"]


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"timeout": 0.0}, "timeout"), ({"connect_timeout": -1.0}, "connect_timeout"), ({"address": "x"}, "server")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RemoteEngine(**{"address": "127.0.0.1:1", **settings})
    assert caught.value.key == key


def test_constructing_and_closing_needs_no_server() -> None:
    RemoteEngine("127.0.0.1:1").close()


PROGRAM = """
import sys
from crayon.client import RemoteEngine
from crayon.engine import GenerateRequest
from crayon.messages import Message
remote = RemoteEngine(sys.argv[1])
stream = remote.generate(GenerateRequest(messages=(Message("user", "one two three " * 500),)))
print(type(next(stream)).__name__)
"""


def test_a_program_that_ends_during_an_answer_ends_quietly() -> None:
    with Serving(lambda: EchoEngine(delay=0.02, context_tokens=8192)) as running:
        command = [sys.executable, "-W", "error", "-c", PROGRAM, running.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Started\n", "")


FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore")
from crayon.client import RemoteEngine
from crayon.errors import EngineClosedError
remote = RemoteEngine(sys.argv[1])
assert remote.models()
pid = os.fork()
if pid == 0:
    try:
        remote.models()
    except EngineClosedError as error:
        remote.close()
        os._exit(7 if "fork" in str(error) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), remote.models()[0].name)
remote.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_a_fork_the_child_is_told_and_the_parent_goes_on(serving: Serving) -> None:
    command = [sys.executable, "-c", FORKING, serving.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "7 echo\n", done.stderr
