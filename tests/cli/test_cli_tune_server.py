"""`crayon tune server`, and what `crayon serve` takes from it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tiny_chat import write_model

from crayon.cli.app import app
from crayon.cli.tuned import engine_sizes, folder_of
from crayon.errors import EngineError
from crayon.models import LocalModel, resolve
from crayon.server.tuning import Choice, Key, TunedProfile, Workload
from crayon.server.tuning.record import keep

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner

COST = {"base": 0.001, "per_token": 0.0005}
SMALL = ["--ctx", "512", "--prompt-tokens", "40", "--answer-tokens", "10", "--time-limit", "2"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny-chat.gguf")


@pytest.fixture
def local(model: Path) -> LocalModel:
    return resolve(str(model))


def sizes(local: LocalModel, **given: Any) -> dict[str, Any]:
    wanted: dict[str, Any] = {"models_dir": None, "ctx": 512, "slots": None, "threads": None, "search": False}
    return engine_sizes(local, "F32", **{**wanted, **given})


def record(local: LocalModel, *, key: Key | None = None, cost: Any = COST, **choice: Any) -> None:
    profile = TunedProfile(
        key=key or Key.here(local.sha256, "F32"),
        choice=Choice(**{"n_batch": 64, "n_seq_max": 4, "threads": 1, **choice}),
        workload=Workload(n_ctx=512).as_json(),
        cost=cost,
        fit={},
        quick=True,
        made="2026-01-02T03:04:05+00:00",
        seconds=1.0,
    )
    keep(profile, folder_of(local, None))


def test_nothing_is_searched_whose_result_could_not_be_kept(
    local: LocalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crayon.cli.tuned.os.access", lambda *_: False)
    monkeypatch.setattr("crayon.server.tuning.tune", lambda *_, **__: pytest.fail("it was searched"))
    assert sizes(local, search=True) == {"n_ctx": 512, "n_seq_max": 8, "threads": None}
    assert "cannot be written, and its result would be lost" in capsys.readouterr().err


def test_json_has_the_choice_and_its_evidence(model: Path, runner: CliRunner) -> None:
    result = runner.invoke(app, ["tune", "server", str(model), "--quick", "--json", *SMALL])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"model", "key", "choice", "cost", "fit", "evidence", "digest", "made"} <= set(found)
    assert {"n_batch", "n_seq_max", "threads", "kv_unified", "overlap", "quantum", "nano"} <= set(found["choice"])
    assert {"structure", "threads", "nano", "kv_unified", "quantum", "overlap"} == set(found["evidence"]["why"])
    assert found["evidence"]["measured"]


def test_the_table_says_what_was_chosen_and_why(model: Path, runner: CliRunner) -> None:
    result = runner.invoke(app, ["tune", "server", str(model), *SMALL])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("chosen      batch ")
    assert "overlap" in result.stdout


def test_blends_need_a_pool(model: Path, runner: CliRunner) -> None:
    result = runner.invoke(app, ["tune", "server", str(model), "--blends", "2"])
    assert result.exit_code != 0
    assert "need a --pool" in result.stderr


def test_serve_takes_what_was_tuned_and_says_from_when(local: LocalModel, capsys: pytest.CaptureFixture[str]) -> None:
    record(local)
    found = sizes(local)
    assert (found["n_batch"], found["n_seq_max"], found["threads"], found["n_ctx"]) == (64, 4, 1, 512)
    assert "tuned on 2026-01-02T03:04:05" in capsys.readouterr().err
    assert found["cost"].terms()["per_token"] == COST["per_token"]
    assert "cost" not in sizes(local, threads=2)  # another number of threads, another cost


def test_nothing_is_taken_from_another_machines_record(local: LocalModel, capsys: pytest.CaptureFixture[str]) -> None:
    here = Key.here(local.sha256, "F32")
    record(local, key=replace(here, cpu="another CPU [avx]"))
    assert sizes(local) == {"n_ctx": 512, "n_seq_max": 8, "threads": None}
    assert "measured on another CPU (another CPU)" in " ".join(capsys.readouterr().err.split())


def test_a_cost_that_is_none_is_left_out(local: LocalModel, capsys: pytest.CaptureFixture[str]) -> None:
    record(local, cost={"per_token": -1.0})
    assert sizes(local)["cost"] is None
    assert "the tuned record's cost is not used" in " ".join(capsys.readouterr().err.split())


def test_flags_win_over_the_profile(local: LocalModel) -> None:
    record(local, n_seq_max=16)
    assert sizes(local, slots=3)["n_seq_max"] == 3
    assert sizes(local, threads=2)["threads"] == 2
    both = sizes(local, slots=100, threads=2, search=True)
    assert (both["n_seq_max"], both["threads"]) == (100, 2)
    assert both["n_batch"] >= 100


def test_without_a_record_the_defaults_hold(local: LocalModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes(local) == {"n_ctx": 512, "n_seq_max": 8, "threads": None}
    assert "never tuned here" in capsys.readouterr().err


def test_a_record_of_a_larger_context_is_not_used(local: LocalModel, capsys: pytest.CaptureFixture[str]) -> None:
    record(local)
    assert "n_batch" not in sizes(local, ctx=256)
    assert "a context of 512" in capsys.readouterr().err


def test_the_first_start_searches_unless_all_sizes_are_given(
    local: LocalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def tune(*_: object, quick: bool, **__: object) -> TunedProfile:
        asked.append(quick)
        raise EngineError("no memory")

    monkeypatch.setattr("crayon.server.tuning.tune", tune)
    assert sizes(local, search=True)["n_seq_max"] == 8
    assert asked == [True]
    assert "the search failed, the defaults are used: no memory" in capsys.readouterr().err
    sizes(local, search=True, slots=2, threads=1)
    assert asked == [True]
