from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import typer

from crayon import errors
from crayon.cli.shared import lazy
from crayon.cli.shared.app import COMMANDS, app, run
from crayon.cli.shared.console import colour_wanted, message, paint, safe
from crayon.cli.shared.exit_codes import EXIT_CODES, exit_code

if TYPE_CHECKING:
    from typer.testing import CliRunner


class Terminal:
    def isatty(self) -> bool:
        return True


def all_errors(base: type[errors.CrayonError] = errors.CrayonError) -> list[type[errors.CrayonError]]:
    return [base, *(leaf for child in base.__subclasses__() for leaf in all_errors(child))]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command `fail` that raises what it is given."""
    raised: list[BaseException] = []
    fail = typer.Typer()

    @fail.command()
    def command() -> None:
        raise raised[0]

    original = lazy.importlib.import_module

    class Module:
        app = fail

    monkeypatch.setitem(COMMANDS, "fail", lazy.CommandEntry("fail", "Fail."))
    monkeypatch.setattr(lazy.importlib, "import_module", lambda n: Module if n == "fail" else original(n))

    def raise_(error: BaseException) -> None:
        raised[:] = [error]

    return raise_


def test_help_lists_every_command_with_its_summary_and_the_exit_codes(runner: CliRunner) -> None:
    output = runner.invoke(app, ["--help"]).stdout
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", output, re.MULTILINE)
    for row in EXIT_CODES:
        assert f"{row.code:>3}  {row.meaning}" in output


def test_no_arguments_print_the_help_and_count_as_wrong_usage(runner: CliRunner) -> None:
    result = runner.invoke(app, [])
    assert result.exit_code == 2
    assert "Commands:" in result.output


def test_version(runner: CliRunner) -> None:
    assert re.fullmatch(r"crayon \d+\.\d+\.\d+\S*\n", runner.invoke(app, ["--version"]).stdout)


@pytest.mark.parametrize(
    "arguments", [["aks"], ["ask", "--nope"], ["ask", "--mode", "both", "x"], ["--nope"], ["config", "nope"]]
)
def test_wrong_usage_is_code_2_on_standard_error(runner: CliRunner, arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error" in result.stderr


def test_a_mistyped_command_gets_a_suggestion(runner: CliRunner) -> None:
    assert "Did you mean 'ask'" in runner.invoke(app, ["aks"]).stderr


def test_every_error_class_has_a_code_of_its_own_kind() -> None:
    codes = {cls.__name__: exit_code(cls.__new__(cls)) for cls in all_errors()}
    expected = {
        "CrayonError": 1,
        "InvalidRequestError": 2,
        "PromptTooLongError": 2,
        "ConfigError": 2,
        "PrivacyError": 7,
        "MissingExtraError": 3,
        "ModelError": 3,
        "UnknownModelError": 3,
        "ModelFileError": 3,
        "DownloadError": 3,
        "HashMismatchError": 3,
        "NoSpaceError": 3,
        "AdapterError": 3,
        "AdapterMismatchError": 3,
        "EngineError": 1,
        "LibraryError": 3,
        "EngineClosedError": 1,
        "CancelledError": 130,
        "DeadlineExceededError": 5,
        "OverloadedError": 6,
        "BudgetError": 8,
        "ServerError": 4,
        "ServerUnavailableError": 4,
        "ServerInterruptedError": 4,
        "ServerRejectedError": 4,
    }
    assert {name: codes[name] for name in expected} == expected
    # What is not spelled out is a special case of something that is.
    assert set(codes.values()) == set(expected.values())
    assert exit_code(ValueError()) == 1


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.ConfigError("a.b", "is wrong", "file x"), 2, "error: a.b (from file x): is wrong\n"),
        (errors.UnknownModelError("no such model"), 3, "error: no such model\n"),
        (errors.OverloadedError("full", retry_after=2.5), 6, "error: full (try again in 2.5 s)\n"),
        (KeyError("slip"), 1, "error: unexpected KeyError: 'slip'"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_become_one_message_and_a_code(
    runner: CliRunner, failing: Any, error: BaseException, code: int, text: str
) -> None:
    failing(error)
    result = runner.invoke(app, ["fail"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(text)
    assert "Traceback" not in result.stderr


def test_an_errors_notes_are_shown(runner: CliRunner, failing: Any) -> None:
    error = errors.EngineError("broke")
    error.add_note("before that the server failed: gone")
    failing(error)
    assert "before that the server failed: gone" in runner.invoke(app, ["fail"]).stderr


@pytest.mark.parametrize(("arguments", "variable"), [(["--debug", "fail"], None), (["fail"], "1")])
def test_debug_shows_the_trace(
    runner: CliRunner, failing: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str | None
) -> None:
    failing(errors.EngineError("broke"))
    if variable:
        monkeypatch.setenv("CRAYON_DEBUG", variable)
    assert "Traceback" in runner.invoke(app, arguments).stderr


def test_run_returns_the_code(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    failing(errors.DeadlineExceededError())
    assert run(["fail"]) == 5
    assert run(["--version"]) == 0
    assert run(["nope"]) == 2
    assert capsys.readouterr().out.startswith("crayon ")


def test_colour_only_on_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal: Any = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", stream=terminal) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", stream=terminal) == "x"
    monkeypatch.setenv("NO_COLOR", "")
    assert colour_wanted(terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert not colour_wanted(terminal)


def test_messages_to_a_pipe_carry_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    message("plain", "red", "bold")
    assert capsys.readouterr().err == "plain\n"


def test_control_characters_of_a_model_do_not_reach_a_terminal() -> None:
    terminal: Any = Terminal()
    assert safe("a\x1b]0;title\x07b\x9bc\r\n\té", terminal) == "a�]0;title�b�c�\n\té"
