from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from crayon import errors
from crayon.cli.shared.app import app
from crayon.completion import Chosen, Mode, Reason, Route, Source
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from typer.testing import CliRunner

TWO = ("--choice", "dry", "--choice", "wet")


class Chooser:
    """A client that takes the last choice, or fails."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.error: errors.CrayonError | None = None
        self.calls: list[tuple[list[tuple[str, str]], tuple[str, ...], dict[str, Any]]] = []

    def choose(self, messages: Any, choices: Any, **options: Any) -> Chosen:
        self.calls.append(([(each.role, each.content) for each in messages], tuple(choices), options))
        if self.error is not None:
            raise self.error
        route = Route(**{"source": Source.DEVICE, "reason": Reason.CONFIDENT, **self.client.route})
        return Chosen(choices[-1], len(choices) - 1, (0.25, 0.75), 0.5, route, "fake", 12.4)


@pytest.fixture
def chooser(client: Any) -> Chooser:
    found = Chooser(client)
    client.choose = found.choose
    return found


def test_the_choice_alone_goes_to_standard_output(runner: CliRunner, client: Any, chooser: Chooser) -> None:
    result = runner.invoke(app, ["choose", "Is water", "wet?", *TWO])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "wet\n", "")
    assert chooser.calls == [([("user", "Is water wet?")], ("dry", "wet"), {"blend": None})]
    assert client.closed


def test_standard_input_follows_the_arguments(runner: CliRunner, chooser: Chooser) -> None:
    runner.invoke(app, ["choose", "Which?", "--system", "Be brief.", "-c", "a", "-c", "b"], input="line\n")
    assert chooser.calls[0][:2] == ([("system", "Be brief."), ("user", "Which?\n\nline")], ("a", "b"))


def test_options_become_settings_and_a_blend_goes_with_the_call(
    runner: CliRunner, client: Any, chooser: Chooser
) -> None:
    options = "--mode only_on_device --private --server h:1 --device m.gguf --scope travel --timeout 3 --blend mine"
    assert runner.invoke(app, ["choose", "x", *TWO, *options.split()]).exit_code == 0
    settings = client.settings
    assert (settings.mode, settings.private, settings.timeout) == (Mode.ONLY_ON_DEVICE, True, 3)
    assert (settings.server.address, settings.device.model, settings.scopes) == ("h:1", "m.gguf", ("travel",))
    assert chooser.calls[0][2] == {"blend": "mine"}


def test_json_is_one_object_with_everything(runner: CliRunner, client: Any, chooser: Chooser) -> None:
    client.route = {"source": Source.SERVER, "reason": Reason.UNSURE, "server": "h:1", "bytes_sent": 7}
    result = runner.invoke(app, ["choose", "x", "-c", "a", "-c", "é", "--json"])
    record = json.loads(result.stdout)
    route = record.pop("route")
    assert record == {
        "text": "é",
        "index": 1,
        "probabilities": [0.25, 0.75],
        "margin": 0.5,
        "model": "fake",
        "total_ms": 12.4,
    }
    assert (route["source"], route["reason"], route["bytes_sent"]) == ("server", "unsure", 7)
    assert result.stderr == ""


def test_verbose_says_where_it_came_from_and_quiet_wins(runner: CliRunner, client: Any, chooser: Chooser) -> None:
    client.route = {"score": 0.5, "threshold": 0.25, "profile": "travel"}
    line = "device: confident, 0.50 >= 0.25 | profile travel | probability 0.75 among 2 | margin 0.50 | 12 ms\n"
    assert runner.invoke(app, ["choose", "x", *TWO, "-v"]).stderr == line
    assert runner.invoke(app, ["choose", "x", *TWO, "-v", "-q"]).stderr == ""


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ((), "choices: must be at least 2 texts, not 0"),
        (("-c", "a"), "choices: must be at least 2 texts, not 1"),
        (("-c", "a", "-c", " "), "choices[1]: is empty"),
        (("-c", "a", "-c", "a"), "choices[1]: is the same text as choices[0]"),
    ],
)
def test_wrong_choices_are_wrong_usage_and_open_nothing(
    runner: CliRunner, client: Any, chooser: Chooser, choices: tuple[str, ...], message: str
) -> None:
    result = runner.invoke(app, ["choose", "x", *choices])
    assert result.exit_code == 2
    assert message in result.stderr
    assert client.settings is None


def test_nothing_to_ask_is_wrong_usage(runner: CliRunner, chooser: Chooser) -> None:
    result = runner.invoke(app, ["choose", *TWO], input="")
    assert result.exit_code == 2
    assert "| crayon choose" in result.stderr
    assert chooser.calls == []


def test_a_failure_is_told_and_as_json_too(runner: CliRunner, chooser: Chooser) -> None:
    chooser.error = errors.PrivacyError("private; nothing was sent")
    result = runner.invoke(app, ["choose", "x", *TWO, "--json"])
    assert result.exit_code != 0
    record = json.loads(result.stdout)
    assert record["error"]["type"] == "PrivacyError"
    assert record["error"]["exit_code"] == result.exit_code
    assert result.stderr == "error: private; nothing was sent\n"


def test_a_real_client_chooses(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    from crayon import Crayon

    monkeypatch.setattr(
        "crayon.cli.shared.client.open_client", lambda settings: Crayon(EchoEngine(), mode=settings.mode)
    )
    result = runner.invoke(app, ["choose", "Is water wet or dry?", "-c", "on fire", "-c", "wet"])
    assert (result.exit_code, result.stdout) == (0, "wet\n")
