from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "sdk"))  # tests are no package; the fakes are shared
from sdk_fakes import Fake, FakeServer

from crayon import Crayon, Privacy
from crayon.cli.chat.repl import Repl
from crayon.cli.doctor import checks
from crayon.cli.shared.app import app
from crayon.cli.shared.privacy_prompt import ask_user
from crayon.cli.shared.report import route_line
from crayon.completion import Completion, FinishReason, Mode, PrivacyReport, Reason, Route, Source
from crayon.config import Settings, load

if TYPE_CHECKING:
    from typer.testing import CliRunner

MAIL = "ada@example.com"


def test_doctor_and_config_tell_of_the_hard_switch(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not json.loads(runner.invoke(app, ["config", "show", "--json"]).stdout)["local_only"]
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    shown = runner.invoke(app, ["config", "show"])
    assert "CRAYON_LOCAL_ONLY is on" in shown.stderr
    assert json.loads(runner.invoke(app, ["config", "show", "--json"]).stdout)["local_only"]
    settings = Settings(server={"address": "localhost:1"})
    found = [*checks.check_privacy(settings), *checks.check_server(settings)]
    assert all("CRAYON_LOCAL_ONLY is on" in finding.detail for finding in found)
    assert load().warnings == ()


def test_a_misspelt_switch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_LOCALONLY", "1")
    (warning,) = load().warnings
    assert "did you mean CRAYON_LOCAL_ONLY?" in warning


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_the_option_becomes_a_setting(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    seen = []

    def open_client(settings: Settings) -> None:
        seen.append(settings.privacy.action)
        raise KeyboardInterrupt

    monkeypatch.setattr("crayon.cli.shared.client.open_client", open_client)
    runner.invoke(app, [command, "--privacy", "redact"], input="x")
    assert seen == ["redact"]
    assert runner.invoke(app, [command, "--privacy", "sometimes"], input="x").exit_code == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "said"), [("", "keep"), ("\n", "keep"), ("r\n", "redact"), ("SEND\n", "send"), ("what?\n", "keep")]
)
def test_the_user_is_asked_at_a_terminal(monkeypatch: pytest.MonkeyPatch, typed: str, said: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    assert ask_user({"email": 2}) == said
    assert "e-mail address (2)" in shown.getvalue()


def test_nobody_is_asked_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("s\n"))
    assert ask_user({"email": 1}) == "keep"
    assert capsys.readouterr().err == ""


def test_the_route_line_says_what_was_found() -> None:
    kept = Route(Source.DEVICE, Reason.SENSITIVE, privacy=PrivacyReport(("email",)))
    assert route_line(Completion("x", kept, "m", FinishReason.STOP)).startswith(
        "device: stays on the device: e-mail address found |"
    )
    report = PrivacyReport(("card",), "redact", 2)
    sent = Route(Source.SERVER, Reason.MODE, privacy=report)
    assert "payment card found, replaced; 2 earlier turns not sent" in route_line(
        Completion("x", sent, "m", FinishReason.STOP)
    )


def test_a_loaded_chat_with_a_finding_stays_on_the_device(tmp_path: Path) -> None:
    device, server = Fake("small"), FakeServer("large")
    client = Crayon(device, server, mode="prefer_on_server")
    first = Repl(client=client, mode=Mode.PREFER_ON_SERVER)
    first.handle(f"I am {MAIL}")
    first.handle(f"/save {tmp_path / 'chat.json'}")
    second = Repl(client=client, mode=Mode.PREFER_ON_SERVER)
    second.handle(f"/load {tmp_path / 'chat.json'}")
    second.handle("who am I?")
    assert server.requests == []
    second.handle("/clear")
    second.handle("hello")
    assert len(server.requests) == 1
    redacting = Repl(client=Crayon(device, server, privacy=Privacy(action="redact")), mode=Mode.ONLY_ON_SERVER)
    redacting.handle(f"/load {tmp_path / 'chat.json'}")
    redacting.handle("who am I?")
    assert server.requests[-1].messages[0].content == "I am [EMAIL_1]"
