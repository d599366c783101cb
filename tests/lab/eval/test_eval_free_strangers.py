"""Strangers of free answers on a small random model: who they are, every row, and nothing computed twice."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from keyed_pool import BACKGROUND
from typer.testing import CliRunner

from crayon.adapters import Pool
from crayon.cli.shared.app import app
from crayon.device import DeviceEngine
from crayon.errors import InvalidRequestError
from crayon.lab.eval.answer_cache import AnswerCache
from crayon.lab.eval.customize import EvalReport, ModelUnderTest
from crayon.lab.eval.device_runner import DeviceRunner
from crayon.lab.eval.free_strangers import FreeResults, evaluate_free, rows
from crayon.lab.eval.free_users import free_users, thing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETS = {
    "disfl_qa": ("who was no I mean where is {i}", "place {i}"),
    "clinc150": ("what is my card number today {i}", "unused"),
    "wikidata_facts": ("the country of city{i} is", "land {i}"),
}
USERS = ["disfl_qa", "slots", "wikidata_facts"]


@pytest.fixture(autouse=True)
def sets(data: Path) -> None:
    for name in SETS:
        write(data, name)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        yield cache


def write(data: Path, name: str, train: int = 20) -> None:
    question, answer = SETS[name]
    for split, count in (("train", train), ("test", 4)):
        lines = []
        for i in range(count):
            item = {"id": f"{name}/{split}/{i}", "dataset": name, "task": name, "choices": [], "answer": None}
            texts = {"question": question.format(i=f"{i}{split[:2]}"), "answer_text": answer.format(i=i)}
            lines.append(json.dumps(item | texts))
        (data / "qa" / f"{name}.{split}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def run(path: Path, pool: Pool | None, cache: AnswerCache, **values: Any) -> EvalReport:
    def engine(pools: Any) -> DeviceEngine:
        return DeviceEngine(path, n_ctx=2048, n_batch=64, threads=1, background=BACKGROUND, pools=pools)

    return evaluate_free(engine, ModelUnderTest.of(path, "tiny-chat", "F32"), pool, 2, cache, **values)


def test_each_way_of_answering_has_its_row(model_path: Path, pool: Pool, cache: AnswerCache) -> None:
    members = (*pool.manifest.members[:2], replace(pool.manifest.members[2], role="reader"))
    gate = replace(pool.manifest.gate, mixes=(True, True, False))
    manifest = replace(pool.manifest, members=members, gate=gate, tensors_sha256="")
    own = Pool.shared(manifest, pool.b, keys=pool.keys, centre=pool.centre)
    told: list[str] = []
    report = run(model_path, own, cache, tell=told.append)
    evidence = ("base", "examples", "reader", "blend")
    assert {row.metric for row in report.rows} == {
        "strangers_free",
        "strangers_free_worst_change",
        "strangers_free_gain",
        *(f"strangers_free_gain_vs_{name}" for name in evidence[1:]),
        *(f"evidence_{name}" for name in (*evidence, "combined")),
        "accuracy",
    }
    assert {row.task for row in report.rows if row.metric == "accuracy"} == set(USERS)
    assert [line.partition(":")[0] for line in told if "right:" in line] == USERS
    json.dumps(report.as_json(), allow_nan=False)


def test_a_second_run_computes_nothing_and_finds_the_same(
    model_path: Path, pool: Pool, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(model_path, pool, cache)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed again")

    for name in ("encode_raw", "score", "generate"):
        monkeypatch.setattr(DeviceEngine, name, never)
    monkeypatch.setattr(DeviceRunner, "_run", never)
    assert run(model_path, pool, cache).rows == first.rows


def test_a_model_without_a_pool_has_no_blend(model_path: Path, cache: AnswerCache) -> None:
    report = run(model_path, None, cache)
    assert {row.metric for row in report.rows} >= {"strangers_free", "evidence_examples", "evidence_combined"}
    assert not {row.metric for row in report.rows} & {"evidence_blend", "evidence_reader"}
    assert set(report.left_out) == {"evidence_blend"}


def test_rows_are_means_over_users_and_the_worst_user_is_named() -> None:
    right = np.array([True, True, False, False])
    one = FreeResults("one", "examples", {"base": ~right, "examples": right, "combined": right | True})
    two = FreeResults("two", "plain base", {"base": right, "examples": right, "combined": right & False})
    found = {row.metric: row for row in rows([one, two], "tiny")}
    assert found["strangers_free"].value == 50.0
    assert found["strangers_free_gain"].value == 0.0
    assert found["strangers_free_gain_vs_examples"].value == 0.0
    worst = found["strangers_free_worst_change"]
    assert (worst.value, worst.task) == (-50.0, "two")


def test_samples_are_of_train_and_questions_of_test_splits(data: Path) -> None:
    users = {user.name: user for user in free_users(3)}
    assert list(users) == USERS
    slots = users["slots"]
    assert len(slots.samples) == 16
    assert all(sample.question.endswith("tr") for sample in slots.samples)
    assert len(slots.tests) == 3
    assert all(item.question.endswith("te") for item in slots.tests)
    assert all(item.answer_text in item.question for item in slots.tests)
    assert [message.role for message in slots.turns[:2]] == ["user", "assistant"]
    write(data, "clinc150", train=9)
    with pytest.raises(InvalidRequestError, match="too few"):
        free_users(3)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("how high is my credit limit", "credit limit"),
        ("is bowling on my calendar for friday?", "calendar"),
        ("tell me when my flight is landing", "flight"),
        ("my bank and my card", None),
        ("what is the weather", None),
        ("my very long thing of four words", "very long thing"),
        ("my thing that has no end whatsoever here", "thing"),
        ("my old grey wooden door", None),
    ],
)
def test_a_slot_is_the_thing_behind_my(text: str, found: str | None) -> None:
    assert thing(text) == found


def test_the_command_writes_and_prints_the_result(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    words = ["eval", "customize", str(model_path), "--users", "strangers_free", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--items", "2", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out" / "strangers-free.json").read_text())
    wrong = CliRunner().invoke(app, [*words, "--server-model", "any"])
    assert wrong.exit_code != 0
    assert "--server-model" in wrong.output
