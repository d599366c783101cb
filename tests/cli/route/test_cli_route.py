"""`crayon route status`: the server, the budget and the battery, from settings and files alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from serving_tools import Serving

from crayon.cli.doctor.checks import Status, check_server
from crayon.cli.shared.app import app
from crayon.config import BudgetSettings, ConditionsSettings, load
from crayon.config.client import budget_of, conditions_of
from crayon.router.budget import Budget, Cost
from crayon.router.conditions import Conditions
from crayon.sdk.budget.guard import BudgetGuard
from crayon.sdk.budget.store import BudgetStore
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def status(runner: CliRunner, *arguments: str) -> str:
    result = runner.invoke(app, ["route", "status", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_without_server_and_budget_it_says_so_and_leaves_no_file(runner: CliRunner, state: Path) -> None:
    text = status(runner)
    assert "none is set (server.address)" in text
    assert "budget   none is set" in text
    record = json.loads(status(runner, "--json"))
    assert (record["server"], record["budget"]) == (None, None)
    assert not state.exists()


def test_what_is_left_of_the_budget(runner: CliRunner, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BudgetGuard(Budget(tokens_per_day=100), BudgetStore()).reserve(Cost(10, 20))
    monkeypatch.setenv("CRAYON_BUDGET__TOKENS_PER_DAY", "100")
    monkeypatch.setenv("CRAYON_BUDGET__SHARE", "0.5")
    text = status(runner)
    assert "left: 99 queries in the window, 70 tokens today" in text
    assert str(state / "budget.json") in text
    monkeypatch.setenv("CRAYON_BUDGET__TOKENS_PER_DAY", "30")
    assert "used up  budget.tokens_per_day" in status(runner)
    budget = json.loads(status(runner, "--json"))["budget"]
    assert (budget["tokens"], budget["limit"], budget["file"]) == (
        0,
        "budget.tokens_per_day",
        str(state / "budget.json"),
    )


def test_a_damaged_file_is_named_with_its_fix(runner: CliRunner, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.mkdir()
    (state / "budget.json").write_text("{")
    monkeypatch.setenv("CRAYON_BUDGET__TOKENS_PER_DAY", "100")
    text = status(runner)
    assert "left: 0 tokens today" in text
    assert "delete it" in text


def test_a_server_is_looked_at(runner: CliRunner) -> None:
    with Serving(EchoEngine) as server:
        assert f"{server.address} serves echo" in status(runner, "--server", server.address)
        found = json.loads(status(runner, "--server", server.address, "--json"))["server"]
        assert (found["serving"], found["models"], found["problem"]) == (True, ["echo"], "")
    assert server.address in status(runner, "--server", server.address)
    assert json.loads(status(runner, "--server", server.address, "--json"))["server"]["serving"] is False


def test_several_servers_have_a_line_each(runner: CliRunner) -> None:
    with Serving(EchoEngine) as gone:
        pass
    with Serving(EchoEngine) as server:
        both = f"{server.address},{gone.address}"
        text = status(runner, "--server", both)
        assert f"{server.address} serves echo" in text
        assert f"{gone.address}: " in text
        found = json.loads(status(runner, "--server", both, "--json"))["server"]
        assert (found["address"], found["serving"]) == (server.address, True)
        assert {each["address"]: each["serving"] for each in found["each"]} == {
            server.address: True,
            gone.address: False,
        }
        (line, _) = check_server(load({"server.address": both}).settings)
        assert f"1 of 2 servers serve; {gone.address}: " in line.detail
    (line,) = check_server(load({"server.address": both}).settings)
    assert line.status is Status.FAIL
    assert f"0 of 2 servers serve; {server.address}: " in line.detail


def test_a_limit_that_cannot_be_counted_is_a_usage_error(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_BUDGET__MONEY_PER_DAY", "1")
    result = runner.invoke(app, ["route", "status"])
    assert result.exit_code == 2
    assert "budget.money_per_day" in result.stderr


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_prices_that_are_none_are_refused(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CRAYON_BUDGET__PROMPT_PRICE", value)
    result = runner.invoke(app, ["route", "status"])
    assert result.exit_code == 2
    assert "budget.prompt_price" in result.stderr


def test_settings_have_the_defaults_of_the_sdk() -> None:
    assert budget_of(BudgetSettings()) == Budget()
    assert conditions_of(ConditionsSettings()) == Conditions()
