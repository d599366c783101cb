"""Strangers are measured as any user customises and asks, on any model, each question once; bad files are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from eval_tools import write_stranger
from keyed_pool import BACKGROUND
from tiny_chat import write_model
from typer.testing import CliRunner

from crayon import Crayon
from crayon.cli.shared.app import app
from crayon.device import DeviceEngine
from crayon.errors import ConfigError, InvalidRequestError
from crayon.lab.eval.answer_cache import AnswerCache
from crayon.lab.eval.customize import EvalReport, ModelUnderTest
from crayon.lab.eval.stranger_rows import rows
from crayon.lab.eval.stranger_users import read_strangers
from crayon.lab.eval.strangers import StrangerResults, StrangerSettings, class_means, evaluate_strangers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.adapters import Pool

SETTINGS = StrangerSettings(items=3)
ALWAYS = {
    "strangers_choose",
    "strangers_ask",
    "strangers_worst_change",
    "strangers_gain",
    *(f"evidence_{name}" for name in ("base", "examples", "class_mean", "answers", "combined")),
}


def run(path: Path, pool: Pool | None, files: Sequence[Path], folder: Path, **more: Any) -> EvalReport:
    def open_engine(pools: Sequence[Pool]) -> DeviceEngine:
        return DeviceEngine(path, n_ctx=1024, n_batch=64, threads=1, background=BACKGROUND, pools=pools)

    model = ModelUnderTest.of(path, "tiny-chat", "F32")
    with AnswerCache(folder / "answers.sqlite") as cache:
        return evaluate_strangers(open_engine, model, pool, read_strangers(files), SETTINGS, cache, **more)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write_stranger(tmp_path / f"{name}.json", name, seed) for seed, name in enumerate(("ann", "ben"))]


def test_every_kind_of_evidence_and_the_server_stand_beside_the_product(
    model_path: Path, pool: Pool, files: list[Path], tmp_path: Path
) -> None:
    def open_server() -> DeviceEngine:
        return DeviceEngine(write_model(tmp_path / "other.gguf", seed=5), n_ctx=1024, threads=1, background=BACKGROUND)

    report = run(model_path, pool, files, tmp_path, open_server=open_server)
    found = {row.metric: row for row in report.rows if row.metric != "accuracy"}
    assert set(found) >= ALWAYS | {"evidence_blend", "server", "strangers_gain_vs_server", "foreign_margin_auroc"}
    assert report.left_out == {}
    assert found["strangers_choose"].value == found["evidence_combined"].value
    for row in report.rows:
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert row.ci_low <= row.value <= row.ci_high
    each = {(row.task, row.variant) for row in report.rows if row.metric == "accuracy"}
    assert each >= {(name, variant) for name in ("ann", "ben") for variant in ("base", "combined", "server")}
    record = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert record["bench"] == "eval customize"
    assert record["settings"] == {"users": ["ann", "ben"], "items": 3}


def test_a_model_without_a_pool_has_all_but_the_blend(model_path: Path, files: list[Path], tmp_path: Path) -> None:
    report = run(model_path, None, files[:1], tmp_path)
    assert {row.metric for row in report.rows} >= ALWAYS
    assert "evidence_blend" not in {row.metric for row in report.rows}
    assert set(report.left_out) == {"evidence_blend", "server"}


def test_what_was_answered_is_not_asked_again(
    model_path: Path, pool: Pool, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(model_path, pool, files, tmp_path)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(Crayon, "choose", never)
    monkeypatch.setattr(Crayon, "ask", never)
    assert run(model_path, pool, files, tmp_path).rows == first.rows


def test_the_nearest_mean_is_of_the_samples_of_a_label() -> None:
    rows_ = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    assert class_means(rows_, [2, 2, 0], np.array([[0.6, -0.8], [-0.6, 0.8]])).tolist() == [2, 0]


def test_margins_are_compared_within_a_user() -> None:
    def user(name: str, right: list[bool], margins: list[float]) -> StrangerResults:
        flags, lead = np.array(right), np.array(margins)
        variants = ("base", "examples", "class_mean", "answers", "combined")
        return StrangerResults(name, "", dict.fromkeys(variants, flags), {"combined": lead, "base": -lead}, flags)

    one = user("one", [True, False], [0.2, 0.1])
    two = user("two", [True, False, True], [0.9, 0.8, 0.7])  # surer by far, yet no better told apart
    for result in (one, two):
        result.margin["examples"] = np.zeros(len(result.right["base"]))
    one.foreign = {"combined": np.array([0.05, 0.15]), "base": np.zeros(2)}
    found = {row.metric: row.value for row in rows([one, two], "model")}
    assert found["foreign_margin_auroc"] == pytest.approx(3 / 4)
    assert found["base_foreign_margin_auroc"] == 0.0
    assert found["margin_auroc"] == pytest.approx(2 / 3)
    assert found["base_margin_auroc"] == pytest.approx(1 / 3)
    assert found["examples_margin_auroc"] == pytest.approx(1 / 2)


def test_the_worst_change_names_its_user() -> None:
    def user(name: str, base: list[bool], now: list[bool]) -> StrangerResults:
        right = {"base": np.array(base), "combined": np.array(now)}
        margins = {variant: np.zeros(len(base)) for variant in ("base", "examples", "combined")}
        right |= {variant: np.array(base) for variant in ("examples", "class_mean", "answers")}
        return StrangerResults(name, "", right, margins, np.array(now))

    users = [user("better", [False, False], [True, True]), user("worse", [True, True], [True, False])]
    worst = next(row for row in rows(users, "model") if row.metric == "strangers_worst_change")
    assert (worst.task, worst.value) == ("worse", -50.0)


def test_files_that_are_no_users_are_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"strangers.*no \.json files"):
        read_strangers()
    with pytest.raises(InvalidRequestError, match=r"gone\.json cannot be read"):
        read_strangers([tmp_path / "gone.json"])
    path = write_stranger(tmp_path / "user.json", "ann")
    good = json.loads(path.read_text())
    for change, problem in (
        ({"labels": ["ae", "AE "]}, "labels must be at least 2"),
        ({"samples": []}, "samples is empty"),
        ({"tests": [{"question": "a", "answer": "b"}]}, r"tests\[0\] is none of the labels"),
        ({"tests": 5}, "no user"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(InvalidRequestError, match=problem):
            read_strangers([path])
    twice = [write_stranger(tmp_path / f"{i}.json", "ann") for i in range(2)]
    with pytest.raises(InvalidRequestError, match="two files are of one user"):
        read_strangers(twice)
    (data / "strangers").mkdir()
    write_stranger(data / "strangers" / "eve.json", "eve")
    assert [user.name for user in read_strangers()] == ["eve"]


def test_without_a_folder_of_datasets_the_default_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="CRAYON_DATA"):
        read_strangers()


def test_few_questions_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="--items"):
        replace(SETTINGS, items=1)


def test_the_command_writes_and_prints_the_result(
    model_path: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    words = ["eval", "customize", "--users", "strangers", "--device", str(model_path), "--out", str(tmp_path / "out")]
    few = [*words, "--strangers", str(files[0]), "--items", "2", "--workers", "1"]
    done = CliRunner().invoke(app, [*few, "--server-model", str(model_path), "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out" / "strangers.json").read_text())
    assert "server" in {row["metric"] for row in record["rows"]}
    table = CliRunner().invoke(app, few)
    assert table.exit_code == 0
    assert "strangers_choose" in table.stdout
    assert "ann answers with: " in table.stdout
    wrong = CliRunner().invoke(app, [*few, "--draws", "2"])
    assert wrong.exit_code != 0
    assert "--draws" in wrong.output
    other = CliRunner().invoke(app, ["eval", "customize", "--strangers", str(files[0])])
    assert other.exit_code != 0
    assert "--users tasks" in other.output
