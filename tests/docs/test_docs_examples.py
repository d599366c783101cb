"""docs/examples: every file runs alone and says what it is there to show."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving_tools import Serving, ask

from crayon import AsyncCrayon, Crayon, OverloadedError
from crayon.client import RemoteEngine
from crayon.engine import Delta, Engine, Finished, ScoreRequest, Started, deadline_after
from crayon.errors import (
    CancelledError,
    DeadlineExceededError,
    EngineClosedError,
    PromptTooLongError,
    ServerRejectedError,
    UnknownModelError,
)
from crayon.messages import Message
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
INDEX = (EXAMPLES / "index.md").read_text("utf-8")


def run(name: str) -> str:
    """Run an example as a user would, and return what it says."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("CRAYON_")}
    environ["CRAYON_DEVICE__MODEL"] = "smollm2-135m-instruct"  # and not what this machine is fast enough for just now
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=280,
        env=environ,
        preexec_fn=on_one_core,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_one_core() -> None:
    """Leave one compute thread: two that wait for each other are many times slower on a machine that is busy."""
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def test_the_index_names_every_example() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"index.md"}
    assert set(re.findall(r"^\| \[(\S+)\]\(\1\) \|", INDEX, re.MULTILINE)) == files


# -- those with a model


@pytest.fixture
def model(device_model_path: Path) -> Path:
    """See to it that the model is here before an example wants it."""
    return device_model_path


@pytest.mark.models
def test_the_quick_start_answers(model: Path) -> None:
    said = run("quick_start.py")
    assert "-- from the device (no_server)" in said
    assert re.search(r"^-- \d+ tokens, (stop|length)$", said, re.MULTILINE)
    assert re.search(r"^(praise|complaint) \(margin 0\.\d\d\)$", said, re.MULTILINE)
    assert len(said.splitlines()) >= 5


@pytest.mark.models
def test_the_tool_loop_calls_and_answers(model: Path) -> None:
    said = run("tool_loop.py")
    assert re.search(
        r'^opening_hours\({"place": "(museum|pool|library)"}\)\n  = The \1 opens at \d+:\d\d\.$', said, re.MULTILINE
    )
    assert re.search(r"^-- [23] rounds, (answered|repeated|rounds|unknown), from the device$", said, re.MULTILINE)


@pytest.mark.models
def test_the_support_assistant_is_customised_and_sorts(model: Path) -> None:
    said = run("support_assistant.py")
    assert said.startswith("customised from 16 tickets; changes answers: True, by ")
    rows = re.findall(
        r"before: (.+?) +after: (.+?) +margin (\d\.\d\d)(  close: let a person look)?$", said, re.MULTILINE
    )
    assert len(rows) == 6
    assert all(bool(close) == (float(margin) < 0.2) for *_, margin, close in rows if margin != "0.20")
    before, after = map(int, re.findall(r"right: (\d) of 6 before, (\d) after", said)[0])
    assert after > before


@pytest.mark.models
def test_the_asyncio_service_answers_and_reports_errors(model: Path) -> None:
    first, second, third = run("asyncio_service.py").splitlines()
    assert "'from': 'device'" in first
    assert "'from': 'device'" in second
    assert "'error': 'messages" in third  # an empty question is the caller's fault, and no crash


@pytest.mark.models
def test_private_routing_sends_what_it_may_and_nothing_else(model: Path) -> None:
    keep, redact = run("private_routing.py").split("when something sensitive is found: ")[1:]
    for said in (keep, redact):
        assert re.search(r"in scope +device +in_scope +the server heard: nothing$", said, re.MULTILINE)
        assert re.search(r"out of scope +server +out_of_scope +the server heard: Who won the football match", said)
        assert re.search(r"marked private +device +private +the server heard: nothing$", said, re.MULTILINE)
    assert re.search(r"an address in it +device +sensitive +the server heard: nothing$", keep, re.MULTILINE)
    assert re.search(r"an address in it +server +out_of_scope +the server heard: Write to \[EMAIL_1\] that", redact)
    assert re.search(r"and you read: Write to ada@example.org", redact)
    assert "ada@example.org" not in keep


# -- the service, without a model


async def test_a_full_engine_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncio.run", lambda main: main.close())
    service = runpy.run_path(str(EXAMPLES / "asyncio_service.py"))["Service"]
    async with AsyncCrayon(device=EchoEngine()) as crayon:
        made = service(crayon)
        assert (await made.answer("hello there"))["answer"] == "hello there"
        monkeypatch.setattr(crayon, "ask", _full)
        assert await made.answer("hello") == {"error": "busy", "retry_after_s": 2.5}


async def _full(*_: Any, **__: Any) -> None:
    raise OverloadedError("no room", retry_after=2.5)


# -- an engine of one's own


@pytest.fixture(scope="module")
def phrase_book() -> Any:
    return runpy.run_path(str(EXAMPLES / "engine.py"))["PhraseBook"]


@pytest.fixture(params=["here", "over the wire"])
def engine(request: pytest.FixtureRequest, phrase_book: Any) -> Iterator[Engine]:
    made = phrase_book({"count": "one two three four five six", "good morning": "buenos días"}, delay=0.02)
    if request.param == "here":
        yield made
        made.close()
        return
    with Serving(lambda: made) as serving:
        remote = RemoteEngine(serving.address)
        yield remote
        remote.close()


def test_the_page_shows_what_the_engine_says() -> None:
    page = (ROOT / "docs" / "how-to" / "write-an-engine.md").read_text("utf-8")
    assert f"```text\n{run('engine.py')}```" in page


def test_the_engine_answers_in_order(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    started, *deltas, finished = list(engine.generate(ask("good morning", request_id="r1")))
    assert started == Started("r1", "phrase-book")
    assert "".join(delta.text for delta in deltas) == "buenos días"
    assert isinstance(finished, Finished)
    assert finished.usage.completion_tokens == sum(delta.tokens for delta in deltas) == 2
    assert finished.usage.prompt_tokens == 2


def test_the_engine_keeps_limits_and_stop_texts(engine: Engine) -> None:
    *_, finished = list(engine.generate(ask("count", max_tokens=3)))
    assert (finished.finish_reason, finished.usage.completion_tokens) == ("length", 3)
    events = list(engine.generate(ask("count", stop=("three",))))
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "one two"
    with pytest.raises(PromptTooLongError):
        list(engine.generate(ask("word " * 64)))
    with pytest.raises(UnknownModelError):
        list(engine.generate(ask("count", model="other")))


def test_the_engine_lets_go_when_it_is_cancelled_or_late(engine: Engine) -> None:
    stream = engine.generate(ask("count"))
    assert isinstance(next(stream), Started)
    stream.cancel()
    with pytest.raises(CancelledError):
        list(stream)
    with pytest.raises(DeadlineExceededError):
        list(engine.generate(ask("count", deadline=deadline_after(0.05))))


def test_the_engine_cannot_score_and_says_so(engine: Engine) -> None:
    request = ScoreRequest(messages=(Message("user", "hello"),), continuations=("a",))
    with pytest.raises((ServerRejectedError, ValueError), match="cannot score"):
        engine.score(request).result(20)


def test_a_closed_engine_ends_what_runs(phrase_book: Any) -> None:
    made = phrase_book({"count": "one two three"}, delay=30)
    stream = made.generate(ask("count"))
    assert isinstance(next(stream), Started)
    stream.cancel()
    made.close()
    made.close()
    with pytest.raises(EngineClosedError):
        made.generate(ask("count"))
    with Crayon(device=phrase_book({"a": "b"})) as client:
        assert client.ask("a").text == "b"


# -- gRPC in another language's terms

SHELL = (EXAMPLES / "grpc.sh").read_text("utf-8")
# What a call of grpcurl sends: the JSON after -d, if there is one, and the method that ends the call.
CALLS = [
    (method, json.loads(body) if body else {})
    for body, method in re.findall(
        r"^grpcurl [^\n]*?(?:-d '([^']*)')?[^']*?\"\$address\" (\S+/\S+)$", SHELL, re.MULTILINE | re.DOTALL
    )
]


def reflected(channel: grpc.Channel, method: str) -> tuple[Any, Any, bool]:
    """Return request class, response class and whether a stream comes back, by what the server tells of itself."""
    service, _, name = method.partition("/")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=20)
    pool = DescriptorPool()
    for raw in answer.file_descriptor_response.file_descriptor_proto:
        pool.Add(FileDescriptorProto.FromString(raw))
    found = pool.FindServiceByName(service).FindMethodByName(name)
    classes = (message_factory.GetMessageClass(kind) for kind in (found.input_type, found.output_type))
    return *classes, found.server_streaming


def call(address: str, method: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Do what grpcurl does: ask the server for the types, and send and read JSON."""
    with grpc.insecure_channel(address) as channel:
        request, response, streams = reflected(channel, method)
        kind = channel.unary_stream if streams else channel.unary_unary
        asked = kind(f"/{method}", request.SerializeToString, response.FromString)(
            json_format.ParseDict(body, request()), timeout=20
        )
        return [json_format.MessageToDict(message) for message in (asked if streams else [asked])]


def test_the_calls_of_the_shell_example_are_found() -> None:
    names = [method.rpartition("/")[2] for method, _ in CALLS]
    assert names == ["Check", "ListModels", "Generate", "Score", "Encode"]
    assert [method for method, body in CALLS if body] == [
        f"crayon.v1.InferenceService/{name}" for name in ("Generate", "Score", "Encode")
    ]


def test_the_calls_of_the_shell_example_work_by_reflection() -> None:
    with Serving(EchoEngine) as serving:
        answers = {method.rpartition("/")[2]: call(serving.address, method, body) for method, body in CALLS}
    assert answers["Check"] == [{"status": "SERVING"}]
    assert answers["ListModels"][0]["models"][0]["name"] == "echo"
    events = answers["Generate"]
    assert "".join(event["delta"]["text"] for event in events if "delta" in event) == "Why is the sky blue?"
    assert events[-1]["finished"]["finishReason"] == "FINISH_REASON_STOP"
    assert [len(score["tokenLogprobs"]) for score in answers["Score"][0]["scores"]] == [1, 1]
    assert len(answers["Encode"][0]["values"]) == 2 * answers["Encode"][0]["dimensions"]


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="needs grpcurl on PATH")
def test_the_shell_example_runs() -> None:
    with Serving(EchoEngine) as serving:
        done = subprocess.run(
            ["sh", str(EXAMPLES / "grpc.sh"), serving.address], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert '"status": "SERVING"' in done.stdout
    assert "FINISH_REASON_STOP" in done.stdout
