"""`crayon tune server`, and what `crayon serve` takes from it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import filelock
import pytest
from tiny_chat import write_model

from crayon.cli.serve.tuned import DECIDED, engine_sizes, folder_of
from crayon.cli.shared.app import app
from crayon.config import ServeSettings
from crayon.errors import ConfigError, EngineError
from crayon.machine import usable_cores
from crayon.models import LocalModel, resolve
from crayon.server.engines.llama.engine import LlamaCppEngine
from crayon.server.tuning import ExpectedLoad, Key, TunedProfile, TunedSettings, engine_arguments
from crayon.server.tuning.record import keep

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner

COST = {"base": 0.001, "per_token": 0.0005}
DEFAULTS = {"n_ctx": 2048, "n_seq_max": 8, "threads": None}
SMALL = ["--ctx", "512", "--prompt-tokens", "40", "--answer-tokens", "10", "--time-limit", "2"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny-chat.gguf")


@pytest.fixture
def local(model: Path) -> LocalModel:
    return resolve(str(model))


def sizes(local: LocalModel, **given: Any) -> dict[str, Any]:
    return engine_sizes(local, "F32", ServeSettings(**{"ctx": 2048, **given}), models_dir=None)


def record(local: LocalModel, *, key: Key | None = None, cost: Any = COST, **choice: Any) -> None:
    profile = TunedProfile(
        key=key or Key.here(local.sha256, "F32", 2048),
        choice=TunedSettings(**{"n_batch": 64, "n_seq_max": 4, "threads": 1, **choice}),
        workload=ExpectedLoad(n_ctx=2048).as_json(),
        cost=cost,
        fit={},
        quick=True,
        made="2026-01-02T03:04:05+00:00",
        seconds=1.0,
    )
    keep(profile, folder_of(local, None))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A search that fails; whether each that was asked for was a quick one."""
    asked: list[bool] = []

    def tune(*_: object, quick: bool, **__: object) -> TunedProfile:
        asked.append(quick)
        raise EngineError("no memory")

    monkeypatch.setattr("crayon.server.tuning.tune", tune)
    return asked


def test_json_has_the_choice_and_its_evidence(model: Path, runner: CliRunner) -> None:
    result = runner.invoke(app, ["tune", "server", str(model), "--quick", "--json", *SMALL])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"model", "key", "choice", "cost", "fit", "evidence", "digest", "made"} <= set(found)
    assert {"n_batch", "n_seq_max", "threads", "kv_unified", "overlap", "quantum", "nano"} <= set(found["choice"])
    why = found["evidence"]["why"]
    searched = {"structure", "threads", "nano", "kv_unified", "quantum", "overlap"}
    # On a busy machine two seconds may not suffice to measure two engines, twice.
    assert set(why) == ({"structure"} if "no time" in why["structure"] else searched)
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


def test_a_search_whose_result_would_not_be_used_says_so(model: Path, runner: CliRunner, asked: list[bool]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAYON_SERVE__SLOTS", "4")
        result = runner.invoke(app, ["tune", "server", str(model), "--quick"])
    assert "crayon serve will not use what is found: the settings give slots" in " ".join(result.stderr.split())
    assert asked == [True]


def test_the_context_is_that_of_the_server_if_not_given(model: Path, runner: CliRunner) -> None:
    keys: list[Key] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAYON_SERVE__CTX", "4096")
        patch.setattr("crayon.server.tuning.tune", lambda _, key, *__, **___: keys.append(key) or 1 / 0)
        runner.invoke(app, ["tune", "server", str(model), "--quick"])
    assert [key.n_ctx for key in keys] == [4096]


def test_serve_takes_what_was_tuned_and_says_from_when(local: LocalModel, capsys: pytest.CaptureFixture[str]) -> None:
    record(local, threads=usable_cores())
    found = sizes(local)
    assert (found["n_batch"], found["n_seq_max"], found["threads"], found["n_ctx"]) == (64, 4, usable_cores(), 2048)
    assert "tuned on 2026-01-02T03:04:05" in capsys.readouterr().err
    assert found["cost"].terms()["per_token"] == COST["per_token"]
    assert "cost" not in sizes(local, threads=99)  # another number of threads, another cost
    record(local, threads=usable_cores() + 1)
    assert "cost" not in sizes(local)
    record(local, threads=usable_cores(), overlap="dual", prefill_threads=1)
    assert "cost" not in sizes(local)


def test_nothing_is_taken_from_another_machines_record(
    local: LocalModel, asked: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    here = Key.here(local.sha256, "F32", 2048)
    record(local, key=replace(here, cpu="another CPU [avx]"))
    assert sizes(local) == DEFAULTS
    assert "measured on another CPU (another CPU)" in " ".join(capsys.readouterr().err.split())
    assert asked == [True]


def test_a_record_of_another_context_is_not_used(
    local: LocalModel, asked: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    record(local)
    for ctx in (4096, 8192):
        assert "n_batch" not in sizes(local, ctx=ctx)
        assert f"a context of 2048 tokens, here are {ctx}" in " ".join(capsys.readouterr().err.split())
    assert asked == [True, True]


def test_a_cost_that_is_none_is_left_out(local: LocalModel, capsys: pytest.CaptureFixture[str]) -> None:
    record(local, cost={"per_token": -1.0}, threads=usable_cores())
    assert sizes(local)["cost"] is None
    assert "the tuned record's cost is not used" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "given",
    [
        {"slots": 3}, {"threads": 99}, {"batch": 32}, {"nano_batches": 2}, {"overlap": "none"}, {"kv": "split"},
        {"blend_quantum": 64},
    ],
)  # fmt: skip
def test_a_record_is_never_mixed_with_what_is_given_by_hand(
    given: dict[str, Any], local: LocalModel, asked: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(given) <= set(DECIDED)
    (name,) = given
    by_hand = {
        key: value for key, value in (("n_seq_max", given.get("slots")), ("threads", given.get("threads"))) if value
    }
    assert sizes(local, **given) == {**DEFAULTS, **by_hand}
    assert f"and not searched: {name} is given by hand" in " ".join(capsys.readouterr().err.split())
    record(local, n_seq_max=16, n_batch=128, overlap="dual", prefill_threads=1)
    found = sizes(local, **given)
    cost = found.pop("cost", None)
    # Timed on all cores: two of them here are not what it was timed with, nor are two calls at a time.
    assert (cost is not None) == (name != "threads")
    assert found == {**DEFAULTS, **by_hand}
    assert f"whose sizes are not used: {name} is given by hand" in " ".join(capsys.readouterr().err.split())
    assert asked == []


def test_every_size_that_a_record_decides_can_be_given_by_hand() -> None:
    assert set(DECIDED) <= set(ServeSettings.model_fields)
    told = {
        "n_batch": "batch",
        "n_ubatch": "batch",
        "n_seq_max": "slots",
        "threads": "threads",
        "nano_batches": "nano_batches",
    }
    told |= {"kv_unified": "kv", "quantum": "blend_quantum", "overlap": "overlap", "prefill_threads": "overlap"}
    choice = TunedSettings(n_batch=64, n_seq_max=4, threads=1)
    assert {told[name] for name in engine_arguments(choice, inspect.signature(LlamaCppEngine).parameters)} == set(
        DECIDED
    )


def test_the_first_start_searches_once_and_keeps_what_it_found(
    local: LocalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crayon.server.tuning.session.QUICK_SECONDS", 2.0)
    first = sizes(local)
    assert "measuring for about 30 s how it is served best, once" in " ".join(capsys.readouterr().err.split())
    assert first["n_seq_max"] >= 8
    assert first["n_batch"] >= first["n_seq_max"]
    monkeypatch.setattr("crayon.server.tuning.tune", lambda *_, **__: pytest.fail("it was searched again"))
    assert sizes(local) == first


def test_a_search_that_fails_leaves_the_defaults(
    local: LocalModel, asked: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sizes(local) == DEFAULTS
    assert asked == [True]
    assert "the search failed, the defaults are used: no memory" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [ZeroDivisionError(), KeyError("measured"), OSError("no space")])
def test_whatever_a_search_fails_of_the_server_starts(
    fault: Exception, local: LocalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tune(*_: object, **__: object) -> TunedProfile:
        raise fault

    monkeypatch.setattr("crayon.server.tuning.tune", tune)
    assert sizes(local) == DEFAULTS
    assert "the search failed, the defaults are used" in " ".join(capsys.readouterr().err.split())


def test_a_store_that_cannot_be_made_stops_no_start(
    local: LocalModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    found = engine_sizes(local, "F32", ServeSettings(ctx=2048), models_dir=tmp_path / "file" / "models")
    assert found == DEFAULTS
    assert "the defaults are used" in " ".join(capsys.readouterr().err.split())


def test_two_servers_do_not_measure_each_other(
    local: LocalModel, asked: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(local, None)
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "tuning.lock"):
        assert sizes(local) == DEFAULTS
    assert asked == []
    assert "another server is searching for this model" in " ".join(capsys.readouterr().err.split())


def test_tuning_and_a_size_by_hand_cannot_both_be_asked_for(local: LocalModel) -> None:
    with pytest.raises(ConfigError, match="finds all sizes itself, but slots and batch are given by hand"):
        sizes(local, tune=True, slots=4, batch=64)


def test_without_tuning_there_is_neither_search_nor_record(local: LocalModel, asked: list[bool]) -> None:
    assert sizes(local, tune=False) == DEFAULTS
    record(local)
    assert sizes(local, tune=False, slots=3) == {**DEFAULTS, "n_seq_max": 3}
    assert asked == []


def test_nothing_is_searched_whose_result_could_not_be_kept(
    local: LocalModel, asked: list[bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crayon.cli.serve.tuned.os.access", lambda *_: False)
    assert sizes(local) == DEFAULTS
    assert "cannot be written, and what a search finds would be lost" in " ".join(capsys.readouterr().err.split())
    assert asked == []


def test_a_context_too_small_to_search_in_is_said(
    local: LocalModel, asked: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sizes(local, ctx=1999) == {**DEFAULTS, "n_ctx": 1999}  # 8 requests of 250 tokens
    assert "a context of 1999 is too small to search in" in " ".join(capsys.readouterr().err.split())
    assert asked == []
