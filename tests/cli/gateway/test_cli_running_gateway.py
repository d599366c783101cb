"""`crayon ask` and `crayon chat` have a gateway answer that runs with the same settings; `crayon ps`, `crayon stop`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from crayon import AsyncCrayon
from crayon.cli.shared import running_gateway
from crayon.cli.shared.app import app
from crayon.cli.shared.running_gateway import GatewayClient, error_of, look, usable
from crayon.completion import FinishReason, Mode, Source
from crayon.config import GatewaySettings, load
from crayon.config.fingerprint import fingerprint
from crayon.errors import (
    BudgetError,
    CrayonError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    PrivacyError,
    PromptTooLongError,
    ServerError,
    ServerInterruptedError,
    ServerUnavailableError,
)
from crayon.gateway.local_socket import LocalSocket
from crayon.gateway.serving import GatewayServer
from crayon.gateway.shared.gateway import Gateway
from crayon.gateway.shared.panel import Panel
from crayon.messages import Message
from crayon.private_file import gateway_socket
from crayon.server.engines.echo import EchoEngine
from crayon.server.tokens import TokenStore
from crayon.wire.tokens import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner

QUESTION = [Message("user", "one two three")]


class Running:
    """A gateway in a thread, in front of an echo."""

    def __init__(self, settings: str, tokens: TokenStore | None = None, **options: Any) -> None:
        self._settings, self._tokens, self._options = settings, tokens, options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._end = lambda: loop.call_soon_threadsafe(self._stop.set)
        gateway = Gateway(AsyncCrayon(EchoEngine(), **self._options), panel=Panel(settings=self._settings))
        server = GatewayServer(gateway, GatewaySettings(port=0), self._tokens)
        await gateway.load()
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop()
        await gateway.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._thread.join(60)


@pytest.fixture(autouse=True)
def short_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A socket's path has a hundred characters at most."""
    folder = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("CRAYON_STATE_DIR", str(folder))


@pytest.fixture
def own() -> str:
    return fingerprint(load().settings)


def no_models(settings: object) -> Any:
    raise AssertionError("a model was opened here")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crayon.cli.shared.client.open_client", no_models)


def test_ask_is_answered_by_the_gateway_that_runs(runner: CliRunner, own: str, alone: None) -> None:
    with Running(own):
        result = runner.invoke(app, ["ask", "one two three", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["text"], found["route"]["source"], found["model"]) == ("one two three", "device", "echo")


def test_ask_sends_what_its_flags_say(runner: CliRunner, own: str, alone: None) -> None:
    with Running(own):
        short = runner.invoke(app, ["ask", "one two three", "--max-tokens", "2", "--json"])
        chosen = runner.invoke(app, ["ask", "which", "--choice", "left", "--choice", "right", "--json"])
        refused = runner.invoke(app, ["ask", "hello", "--mode", "only_on_server"])
    assert json.loads(short.stdout)["finish_reason"] == "length"
    assert json.loads(chosen.stdout)["text"] in {"left", "right"}
    assert refused.exit_code != 0


def test_chat_is_answered_by_the_gateway(runner: CliRunner, own: str, alone: None) -> None:
    with Running(own):
        result = runner.invoke(app, ["chat"], input="hello there\n/stats\n")
    assert result.exit_code == 0, result.output
    assert "hello there" in result.stdout


@pytest.mark.parametrize(
    "arguments", [["--no-gateway"], ["--device", "smollm2-135m-instruct"], ["--server", "localhost:1"]]
)
def test_other_settings_load_their_own_models(runner: CliRunner, own: str, client: Any, arguments: list[str]) -> None:
    with Running(own):
        result = runner.invoke(app, ["ask", "hello", *arguments])
    assert result.exit_code == 0, result.output
    assert client.asked == [[("user", "hello")]]


def test_without_a_gateway_models_are_loaded_here(runner: CliRunner, client: Any) -> None:
    assert runner.invoke(app, ["ask", "hello"]).exit_code == 0
    assert len(client.asked) == 1


def test_a_gateway_that_wants_a_token_is_left_alone(own: str) -> None:
    with Running(own, TokenStore(None, (Secret("a-token-of-some-length"),))):
        assert look() is None


def test_what_lies_there_and_is_no_gateway_is_left_alone(own: str, tmp_path: Path) -> None:
    assert look() is None
    path = gateway_socket()
    path.write_text("no socket")
    assert look() is None
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert look() is None
    with socket.socket(socket.AF_UNIX) as silent:
        path.unlink()
        silent.bind(str(path))
        silent.listen()
        assert look(timeout=0.05) is None


def test_the_socket_is_its_owners_and_goes_with_the_gateway(own: str) -> None:
    with Running(own):
        mode = gateway_socket().stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert LocalSocket().listen() is None, "a second gateway leaves it to the first"
        assert look() is not None
    assert not gateway_socket().exists()


def test_a_socket_that_was_left_behind_is_taken_over(own: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(gateway_socket()))
    with Running(own):
        assert look() is not None


def test_a_path_too_long_for_a_socket_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert LocalSocket(tmp_path / ("x" * 150)).listen() is None


def test_settings_of_a_call_do_not_matter_and_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fingerprint(load().settings)
    same = {"mode": "prefer_on_server", "private": True, "timeout": 3.0, "sampling.max_tokens": 7, "gateway.port": 1}
    assert fingerprint(load(flags=same).settings) == plain
    others = [{"device.model": "x"}, {"server.address": "localhost:1"}, {"scopes": ("healthy-habits",)},
              {"customization": "x"}, {"mode": "only_on_server"}, {"privacy.action": "redact"}]  # fmt: skip
    found = {fingerprint(load(flags=each).settings) for each in others}
    for token in ("one-token-of-some-length", "another-of-some-length"):
        monkeypatch.setenv("CRAYON_SERVER__TOKEN", token)
        found.add(fingerprint(load().settings))
    assert len(found | {plain}) == len(others) + 3


def test_asking_the_user_is_not_the_gateways_to_do(own: str) -> None:
    with Running(own):
        assert usable(load().settings)
        assert not usable(load(flags={"privacy.action": "ask"}).settings)
        assert not usable(load(flags={"sampling.ignore_eos": True}).settings)


def test_an_answer_has_all_that_the_sdks_has(own: str) -> None:
    settings = load(flags={"sampling.max_tokens": 50}).settings
    with Running(own), GatewayClient(settings, no_models) as client:
        with client.stream(QUESTION, response_format={"type": "object", "properties": {"a": {"type": "null"}},
                                                      "required": ["a"]}) as stream:  # fmt: skip
            text = "".join(piece.text for piece in stream)
        found = stream.completion
    assert text == found.text
    assert found.parsed == {"a": None}
    assert (found.route.source, found.finish_reason) == (Source.DEVICE, FinishReason.STOP)
    assert found.usage.completion_tokens > 0
    assert found.total_ms >= found.ttft_ms > 0


def test_the_hard_switch_here_holds_there(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(running_gateway, "GatewayStream", lambda body, form: asked.append(body))
    client = GatewayClient(load().settings, no_models)
    client.stream(QUESTION, mode=Mode.PREFER_ON_SERVER)
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    client.stream(QUESTION, private=False)
    assert [body["crayon"]["private"] for body in asked] == [False, True]


def test_a_stream_that_is_closed_ends_there_too(own: str) -> None:
    with Running(own), GatewayClient(load().settings, no_models) as client:
        with client.stream([Message("user", "word " * 3000)]) as stream:
            next(iter(stream))
        with pytest.raises(CrayonError):
            _ = stream.completion
        until_none_runs()


def until_none_runs() -> None:
    for _ in range(600):
        found = look(timeout=5)
        if found is not None and found.running == 0:
            return
        threading.Event().wait(0.05)
    pytest.fail("the gateway still computes for nobody")


@pytest.mark.parametrize(
    ("said", "kind"),
    [({"code": "context_length_exceeded", "n_prompt_tokens": 9, "n_ctx": 8}, PromptTooLongError),
     ({"code": "invalid_value", "param": "crayon.blend", "message": "crayon.blend: is none"}, InvalidRequestError),
     ({"code": "private"}, PrivacyError),
     ({"code": "budget_exceeded", "message": "budget.share: used up"}, BudgetError),
     ({"code": "overloaded"}, OverloadedError), ({"code": "deadline_exceeded"}, DeadlineExceededError),
     ({"code": "unavailable"}, ServerUnavailableError), ({}, ServerError)],
)  # fmt: skip
def test_errors_are_those_of_the_sdk(said: dict[str, Any], kind: type[CrayonError]) -> None:
    assert type(error_of(400, said)) is kind


def test_an_error_after_text_holds_the_text() -> None:
    error = error_of(200, {"message": "gone"}, "so far")
    assert isinstance(error, ServerInterruptedError)
    assert error.partial == "so far"


def test_ps_tells_and_says_where_none_runs(runner: CliRunner, own: str) -> None:
    assert runner.invoke(app, ["ps"]).exit_code == 1
    assert runner.invoke(app, ["stop"]).exit_code == 1
    with Running(own):
        result = runner.invoke(app, ["ps"])
        record = json.loads(runner.invoke(app, ["ps", "--json"]).stdout)
    assert result.exit_code == 0
    assert f"process {os.getpid()}" in result.stdout
    assert "echo" in result.stdout
    assert record["models"] == ["echo"]


def test_stop_ends_the_process_and_waits_for_it(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    reaped = threading.Thread(target=process.wait)
    reaped.start()
    state = running_gateway.GatewayState(process.pid, "", 0, (), 1.0, "http://127.0.0.1:1")
    monkeypatch.setattr("crayon.cli.gateway.stop.look", lambda: state)
    assert runner.invoke(app, ["stop"]).exit_code == 0
    reaped.join(60)
    assert process.returncode == -signal.SIGTERM
