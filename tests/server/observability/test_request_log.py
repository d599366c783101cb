"""The log: a line for every call, machine-readable, and nothing of what was said, whatever goes wrong."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from serving_tools import PATIENCE, ScriptedEngine, Serving, ask, server_process, until

from crayon.client import RemoteEngine
from crayon.engine import EncodeRequest, ScoreRequest, Started
from crayon.errors import CrayonError
from crayon.messages import Message
from crayon.server.engines.echo import EchoEngine
from crayon.server.observability.log_lines import LogFormat, formatter
from crayon.server.observability.reading import fetch
from crayon.server.observability.request_log import FIELDS, REQUEST_LOG
from crayon.v1 import inference_pb2 as pb
from crayon.v1.inference_pb2_grpc import InferenceServiceStub
from crayon.wire.requests import generate_request_to_proto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crayon.engine import Engine

CANARY = "xyzzy"
PROMPT = f"my secret is {CANARY} indeed"


class Log:
    """All that any logger says, as the lines would be written, in both formats."""

    def __init__(self) -> None:
        self.streams = {kind: io.StringIO() for kind in LogFormat}
        self.handlers = [logging.StreamHandler(stream) for stream in self.streams.values()]
        for kind, handler in zip(self.streams, self.handlers, strict=True):
            handler.setFormatter(formatter(kind))

    @property
    def text(self) -> str:
        return "".join(stream.getvalue() for stream in self.streams.values())

    def requests(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.streams[LogFormat.JSON].getvalue().splitlines()]
        return [line for line in lines if line["logger"] == REQUEST_LOG]


@pytest.fixture
def log() -> Iterator[Log]:
    kept, root = Log(), logging.getLogger()
    level = root.level
    for handler in kept.handlers:
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield kept
    for handler in kept.handlers:
        root.removeHandler(handler)
    root.setLevel(level)


def test_a_line_says_whose_request_it_was_and_what_it_took(log: Log) -> None:
    with Serving(EchoEngine, log_requests=True) as serving:
        remote = RemoteEngine(serving.address)
        list(remote.generate(ask("one two three", request_id="mine")))
        remote.encode(EncodeRequest(texts=("a b",))).result(PATIENCE)
        with pytest.raises(CrayonError):
            list(remote.generate(ask(model="big", request_id="bad")))
        until(lambda: len(log.requests()) == 3)
        remote.close()
    answered, encoded, refused = log.requests()
    assert answered["request_id"] == "mine"
    assert (answered["method"], answered["code"], answered["model"]) == ("Generate", "OK", "echo")
    assert (answered["prompt_tokens"], answered["completion_tokens"], answered["finish_reason"]) == (3, 3, "stop")
    assert answered["client"] == "ipv4:127.0.0.1"
    assert 0 <= answered["ttft_ms"] <= answered["duration_ms"]
    assert {"time", "level", "queue_ms", "prompt_ms", "decode_ms"} <= set(answered)
    assert (encoded["method"], encoded["prompt_tokens"]) == ("Encode", 2)
    assert encoded["request_id"]  # the one that the server chose
    assert (refused["request_id"], refused["code"], refused["level"]) == ("bad", "NOT_FOUND", "info")


def test_a_line_stays_one_line(log: Log) -> None:
    record = logging.LogRecord(REQUEST_LOG, logging.INFO, "", 0, "request", (), None)
    setattr(record, FIELDS, {"request_id": 'a\nlevel=ERROR "b"', "n": 1.5})
    text = formatter(LogFormat.TEXT).format(record)
    assert text.endswith(r'request request_id="a\nlevel=ERROR \"b\"" n=1.5')
    assert json.loads(formatter(LogFormat.JSON).format(record))["request_id"] == 'a\nlevel=ERROR "b"'


@pytest.mark.parametrize("kind", LogFormat)
def test_words_of_foreign_exceptions_are_left_away(kind: LogFormat) -> None:
    try:
        raise ValueError(PROMPT)
    except ValueError:
        said = f"Task exception was never retrieved\nfuture: <Task exception=ValueError({PROMPT!r})>"
        record = logging.LogRecord("asyncio", logging.ERROR, "", 0, said, (), sys.exc_info())
    line = formatter(kind).format(record)
    assert CANARY not in line
    assert "Task exception was never retrieved" in line
    assert "ValueError" in line


# -- the canary


def _score(remote: RemoteEngine) -> None:
    messages = (Message("user", PROMPT),)
    remote.score(ScoreRequest(messages=messages, continuations=(CANARY,))).result(PATIENCE)


def _encode(remote: RemoteEngine) -> None:
    remote.encode(EncodeRequest(texts=(PROMPT,))).result(PATIENCE)


def _generate(remote: RemoteEngine, **more: Any) -> None:
    list(remote.generate(ask(PROMPT, **more)))


def _hang_up(remote: RemoteEngine) -> None:
    with remote.generate(ask(PROMPT * 50)) as stream:
        assert isinstance(next(stream), Started)
        next(stream)


def _broken(**more: Any) -> Callable[[], Engine]:
    return lambda: ScriptedEngine(Started("r", "scripted"), error=ValueError(f"cannot parse {PROMPT}"), **more)


PATHS: dict[str, tuple[Callable[[], Engine], Callable[[RemoteEngine], None]]] = {
    "answered": (EchoEngine, _generate),
    "cut short": (EchoEngine, lambda remote: _generate(remote, max_tokens=1)),
    "scored": (EchoEngine, _score),
    "encoded": (EchoEngine, _encode),
    "cancelled": (lambda: EchoEngine(delay=0.02), _hang_up),
    "too late": (lambda: EchoEngine(delay=0.2), lambda remote: _generate(RemoteEngine(remote.address, timeout=0.5))),
    "too long": (lambda: EchoEngine(context_tokens=3), _generate),
    "unknown model": (EchoEngine, lambda remote: _generate(remote, model="big")),
    "no slot": (lambda: EchoEngine(slots=0), _generate),
    "a bug at once": (_broken(raise_at_once=True), _generate),
    "a bug on the way": (_broken(), _generate),
    "a bug in scoring": (_broken(), _score),
    "a bug in encoding": (_broken(raise_at_once=True), _encode),
}


@pytest.mark.parametrize("path", PATHS)
def test_nothing_that_was_said_is_shown(path: str, log: Log) -> None:
    factory, act = PATHS[path]
    with Serving(factory, metrics_port=0, log_requests=True) as serving:
        remote = RemoteEngine(serving.address)
        said = ""
        try:
            act(remote)
        except CrayonError as error:
            said = str(error)
        until(lambda: REQUEST_LOG in log.text)
        page = fetch(serving.server.metrics_address)
        remote.close()
    assert CANARY not in log.text + said + repr(page)


def test_no_status_quotes_a_prompt() -> None:
    request = generate_request_to_proto(ask(PROMPT))
    requests = {
        "Generate": (request, pb.GenerateRequest(messages=request.messages, sampling=pb.Sampling(top_p=9.0))),
        "Score": (pb.ScoreRequest(messages=request.messages, continuations=[CANARY, ""]),),
        "Encode": (pb.EncodeRequest(texts=[PROMPT, ""]),),
    }
    with Serving(_broken()) as serving, grpc.insecure_channel(serving.address) as channel:
        for method, some in requests.items():
            for each in some:
                with pytest.raises(grpc.RpcError) as caught:
                    list(getattr(InferenceServiceStub(channel), method)(each, timeout=PATIENCE))
                failure: Any = caught.value
                assert CANARY not in failure.details() + repr(failure.trailing_metadata())


def test_the_program_logs_json_only(tmp_path: Path) -> None:
    options = ("--port", "0", "--log-format", "json", "--metrics-port", "0")
    with server_process(tmp_path, *options) as running:
        remote = RemoteEngine(running.address)
        list(remote.generate(ask(PROMPT, request_id="mine")))
        remote.close()
        running.signal(15)
        code, said = running.end()
    assert code == 0, said
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["request_id"] for line in lines if line["logger"] == REQUEST_LOG] == ["mine"]
    assert any(line["message"].startswith("metrics on http://127.0.0.1:") for line in lines)
    assert CANARY not in said
