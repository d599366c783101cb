from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from crayon.cli.shared.app import app
from crayon.cli.tune.gantt import gantt
from crayon.server.planner import BestPlan, Class, LayerWorkload, NanoOperation, Operation, Pipeline, sequential

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer.testing import CliRunner


@pytest.fixture
def uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that finds nothing better, at once."""

    def search(workloads: Sequence[LayerWorkload], *, seconds: float, **_: object) -> BestPlan:
        return BestPlan(sequential(workloads[0]), in_time=seconds > 1)

    monkeypatch.setattr("crayon.server.planner.search", search)


def test_json_has_the_shape_of_a_bench(uncut: None, runner: CliRunner) -> None:
    result = runner.invoke(app, ["tune", "paper", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["bench"] == "tune paper"
    assert {"cpu", "cores", "versions"} <= set(record["env"])
    planned = {row["metric"]: row["value"] for row in record["rows"] if row["variant"] == "planned"}
    assert planned["sequential_ms"] == pytest.approx(225.05)
    assert planned["overlap_gain"] == pytest.approx(1.0)
    assert planned["tokens_per_s_per_gpu"] == pytest.approx(1137.5, abs=0.1)
    assert planned["fraction_of_optimum"] == pytest.approx(0.6126, abs=1e-4)
    assert planned["perfect_overlap_gain"] == pytest.approx(1.643, abs=1e-3)
    paper = [row["value"] for row in record["rows"] if row["variant"] == "paper"]
    assert {1286.0, 1263.0, 1212.0, 1106.0, 1048.0, 1.17} <= set(paper)
    pieces = record["plan"]["pieces"]
    assert [piece["operation"] for piece in pieces][:2] == ["KQV", "DecAttn"]
    assert pieces[0]["tokens"] == [0, 2048]


def test_the_table_stands_beside_the_papers(uncut: None, runner: CliRunner) -> None:
    result = runner.invoke(app, ["tune", "paper"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["COMPUTE", "MEMORY", "NETWORK"]
    assert any(line.endswith("1286 / 1263 / 1212") for line in lines)
    assert "2000" in lines[-1]
    assert result.stderr == ""


def test_fewer_layers_are_compared_with_no_paper(uncut: None, runner: CliRunner) -> None:
    rows = json.loads(runner.invoke(app, ["tune", "paper", "--layers", "8", "--json"]).stdout)["rows"]
    assert {row["variant"] for row in rows} == {"planned"}
    values = {row["metric"]: row["value"] for row in rows}
    assert values["sequential_ms"] == pytest.approx(22.505)
    # A tenth of the model, of the time and of what could be: the fraction stays.
    assert values["fraction_of_optimum"] == pytest.approx(0.6126, abs=1e-4)


def test_a_search_that_was_cut_off_says_so(uncut: None, runner: CliRunner) -> None:
    result = runner.invoke(app, ["tune", "paper", "--time-limit", "1"])
    assert result.exit_code == 0
    assert "cut off after 1 s" in result.stderr


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = runner.invoke(app, ["tune", "paper"])
    assert result.exit_code == 3
    assert "pip install 'crayon-llm[plan]'" in result.stderr


@pytest.mark.parametrize("arguments", [["--layers", "0"], ["--time-limit", "0"]])
def test_numbers_that_make_no_sense_are_refused(arguments: list[str], runner: CliRunner) -> None:
    assert runner.invoke(app, ["tune", "paper", *arguments]).exit_code == 2


def test_a_bar_that_crosses_the_end_goes_on_at_the_beginning() -> None:
    compute = Operation("A", Class.COMPUTE, 5.0, 0.0)
    memory = Operation("B", Class.MEMORY, 4.0, 0.0, after=("A",))
    plan = Pipeline(
        LayerWorkload((compute, memory), layers=1, tokens=128, gpus=1),
        8.0,
        (NanoOperation(compute, 0, 0, 128, 1.0, 5.0), NanoOperation(memory, 0, 0, 128, 7.0, 4.0)),
    )
    assert list(gantt(plan, 8)) == ["COMPUTE [A1-]...", "MEMORY  1]....[B", "NETWORK ........"]
