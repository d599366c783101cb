"""`crayon route ledger`: entries and sums in words."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from crayon.cli.route.ledger import seconds_of
from crayon.cli.shared.app import app
from crayon.errors import InvalidRequestError
from crayon.ledger import Answered, Ledger, Sent

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ledger:
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))
    ledger, now = Ledger(), time.time()
    ledger.note(Sent(at=now - 7200, request_id="r", to="home:50051", method="Generate", bytes=1234, status="OK"))
    ledger.note(Answered(at=now - 7200, request_id="r", source="server", reason="unsure", score=-2.0, threshold=-1.0,
                         bytes_sent=1234, prompt_tokens=10, completion_tokens=5))  # fmt: skip
    ledger.note(Answered(at=now, request_id="s", source="device", reason="sensitive", found=("email",), action="keep"))
    return ledger


def show(runner: CliRunner, *arguments: str) -> str:
    result = runner.invoke(app, ["route", "ledger", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_lines_and_sums(runner: CliRunner, kept: Ledger) -> None:
    text = show(runner)
    assert "sent      1,234 bytes to home:50051 (Generate)" in text
    assert "-2.00 < -1.00" in text
    assert "found: email (keep)" in text
    assert "answers       2, 1 by the device; of 1 nothing left it" in text
    assert "1,234 bytes in 1 requests" in text
    assert str(kept.path) in text


def test_an_age_leaves_out_what_is_older(runner: CliRunner, kept: Ledger) -> None:
    assert "home:50051" not in show(runner, "--since", "1h")
    assert "home:50051" in show(runner, "--since", "3h")


def test_json_is_one_entry_a_line(runner: CliRunner, kept: Ledger) -> None:
    lines = [json.loads(line) for line in show(runner, "--json").splitlines()]
    assert [line["kind"] for line in lines] == ["sent", "answer", "answer"]
    assert lines[0]["bytes"] == 1234


def test_it_can_be_deleted(runner: CliRunner, kept: Ledger) -> None:
    show(runner, "--clear")
    assert not kept.path.exists()
    assert "none yet" in show(runner)


def test_few_lines_say_how_many_are_left_out(runner: CliRunner, kept: Ledger) -> None:
    result = runner.invoke(app, ["route", "ledger", "--last", "1"])
    assert "2 older entries are not shown" in result.output
    assert "home:50051 (" not in result.stdout


@pytest.mark.parametrize("age", ["", "12", "h", "-1h", "1y", "99999999999d", "1.5h"])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    with pytest.raises(InvalidRequestError, match="--since"):
        seconds_of(age)
