"""The whole evaluation on a small random model: what is promised is there, and nothing is computed twice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from keyed_pool import BACKGROUND
from tiny_chat import CLOSE
from tiny_pool import shared_pool
from typer.testing import CliRunner

from crayon.adapters import Pool
from crayon.cli.shared.app import app
from crayon.completion import Blend
from crayon.data.qa import load_items
from crayon.device import DeviceEngine
from crayon.errors import AdapterError, InvalidRequestError, MissingExtraError
from crayon.lab.eval import baseline_pools
from crayon.lab.eval.answer_cache import AnswerCache
from crayon.lab.eval.cases import as_samples
from crayon.lab.eval.customize import EvalReport, ModelUnderTest, evaluate
from crayon.lab.eval.device_runner import DeviceRunner, Question
from crayon.lab.eval.extra_pools import pool_of_vectors, random_pool
from crayon.lab.eval.settings import CONTROLS, EvalSettings
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SETTINGS = EvalSettings(
    items=4, extra=3, draws=2, control_draws=1, samples=(8, 1), pairs=1, unseen=(("near", "vowels"),), far=("far",)
)
PROMISED = {
    "in_pool_fraction_of_own",
    "in_pool_gain",
    "unseen_gain",
    "unseen_gain_vs_top1",
    "unseen_gain_vs_fresh",
    "unseen_gain_vs_all_data",
    "mixed_gain_vs_all_data",
    "mixed_gap_to_perfect",
    "far_worst_change",
    "in_pool_combined_gain",
    "unseen_combined_gain",
    "mixed_combined_gain_vs_all_data",
    "far_combined_worst_change",
}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache(tmp_path / "out" / "answers.sqlite") as cache:
        yield cache


def engine_of(path: Path, pools: Sequence[Pool]) -> DeviceEngine:
    return DeviceEngine(path, n_ctx=1024, n_batch=64, threads=1, background=BACKGROUND, pools=pools)


def run(path: Path, pool: Pool, settings: EvalSettings, cache: AnswerCache, **values: Any) -> EvalReport:
    model = ModelUnderTest.of(path, "tiny-chat", "F32")
    return evaluate(lambda pools: engine_of(path, pools), model, pool, settings, cache, **values)


def random_training(pool: Pool, samples: Sequence[Any], seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(len(samples) + seed)
    return (0.1 * rng.standard_normal(pool.b.shape[1])).astype(np.float32)


def test_everything_promised_is_measured_in_both_ways(
    model_path: Path, pool: Pool, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_pools, "trainer", lambda: random_training)
    report = run(model_path, pool, SETTINGS, cache, all_data=shared_pool(model_path, 1, seed=9))
    for workload in ("scored option texts", "greedy free generation"):
        rows = {row.metric: row for row in report.rows if row.workload == workload}
        # A random model writes nothing that is right, so that there is no share of its own adapter's free answers.
        assert set(rows) >= PROMISED - ({"in_pool_fraction_of_own"} if "free" in workload else set())
        for name in PROMISED - {"in_pool_fraction_of_own"}:
            row = rows[name]
            assert row.ci_low is not None
            assert row.ci_high is not None
            assert row.ci_low <= row.value <= row.ci_high
            assert row.n
            assert row.draws
    assert {row.variant for row in report.rows if row.metric == "accuracy"} == {*CONTROLS, "blend", "blend@1"}
    far = {row.variant for row in report.rows if row.group == "far" and row.metric == "accuracy"}
    assert far == {"base", "combined", "all_data", "blend", "blend@1"}
    assert report.left_out == {}
    record = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert record["bench"] == "eval customize"
    assert record["rows"][0]["ci_low"] is not None


def test_a_second_run_computes_nothing_and_finds_the_same(
    model_path: Path, pool: Pool, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, groups=("in_pool", "mixed"), controls=("base", "own", "combined", "top1", "lorahub"))
    first = run(model_path, pool, settings, cache)

    def never(*_: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(DeviceEngine, "encode_raw", never)
    monkeypatch.setattr(DeviceEngine, "score", never)
    monkeypatch.setattr(DeviceRunner, "_run", never)
    assert run(model_path, pool, settings, cache).rows == first.rows


def test_the_nearest_member_answers_alone_in_full_and_at_the_mass_of_the_gate(
    model_path: Path, pool: Pool, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = replace(pool.manifest.gate, mass=0.55)
    own = Pool.shared(replace(pool.manifest, gate=gate, tensors_sha256=""), pool.b, keys=pool.keys, centre=pool.centre)
    answer, asked = DeviceRunner.answers, []

    def seen(subject: DeviceRunner, questions: Sequence[Question], *more: Any) -> Any:
        asked.append(tuple(sorted({question.blend.weights for question in questions if question.blend is not None})))
        return answer(subject, questions, *more)

    monkeypatch.setattr(DeviceRunner, "answers", seen)
    settings = replace(SETTINGS, groups=("in_pool",), samples=(8,), draws=1, tasks=1)
    found = {}
    for name in ("top1", "top1_mass"):
        asked.clear()
        report = run(model_path, own, replace(settings, controls=("base", name)), cache)
        assert f"in_pool_gain_vs_{name}" in {row.metric for row in report.rows}
        found[name] = {weights for each in asked for weights in each}
    assert (1.0, 0.0, 0.0) in found["top1"]
    assert (0.55, 0.0, 0.0) in found["top1_mass"] - found["top1"]


def test_a_killed_run_goes_on_where_it_was(
    model_path: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, groups=("in_pool",), controls=("base",))
    compute, count, killed_at = DeviceRunner._run, 0, 6

    def killed(subject: DeviceRunner, work: Any) -> Any:
        nonlocal count
        count += 1
        if count == killed_at:
            raise KeyboardInterrupt
        return compute(subject, work)

    monkeypatch.setattr(DeviceRunner, "_run", killed)
    with AnswerCache(tmp_path / "answers") as kept, pytest.raises(KeyboardInterrupt):
        run(model_path, pool, settings, kept)
    with AnswerCache(tmp_path / "answers") as kept:
        assert run(model_path, pool, settings, kept).rows
    resumed, count, killed_at = count, 0, 0
    with AnswerCache(tmp_path / "others") as kept:
        run(model_path, pool, settings, kept)
    # Twice is asked for what was cut off, and for what had been answered after it.
    assert count < resumed <= count + SETTINGS.items


def test_without_torch_and_all_data_the_rest_is_measured(
    model_path: Path, pool: Pool, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise MissingExtraError("train", "the control fresh")

    monkeypatch.setattr(baseline_pools, "trainer", missing)
    settings = replace(SETTINGS, groups=("unseen",), controls=("base", "fresh", "all_data", "uniform"))
    told: list[str] = []
    report = run(model_path, pool, settings, cache, tell=told.append)
    assert set(report.left_out) == {"fresh", "all_data"}
    assert "crayon-llm[train]" in report.left_out["fresh"]
    assert any("left out: fresh" in line for line in told)
    metrics = {row.metric for row in report.rows}
    assert {"unseen_gain", "unseen_gain_vs_uniform", "unseen_extra_gain"} <= metrics
    assert "unseen_gain_vs_fresh" not in metrics


def test_questions_are_answered_side_by_side(model_path: Path, pool: Pool, tmp_path: Path) -> None:
    settings = replace(SETTINGS, groups=("in_pool",), controls=("base", "own"))
    rows = []
    for workers in (1, 3):
        with AnswerCache(tmp_path / str(workers)) as kept:
            rows.append(run(model_path, pool, settings, kept, workers=workers).rows)
    assert rows[0] == rows[1]


def test_the_generalist_is_the_all_data_control(model_path: Path, pool: Pool, cache: AnswerCache) -> None:
    members = (*pool.manifest.members[:2], replace(pool.manifest.members[2], name="generalist"))
    manifest = replace(pool.manifest, members=members, tensors_sha256="")
    own = Pool.shared(manifest, pool.b, keys=pool.keys, centre=pool.centre)
    settings = replace(SETTINGS, groups=("in_pool",), controls=("base", "all_data"))
    report = run(model_path, own, settings, cache)
    assert {row.task for row in report.rows if row.metric == "accuracy"} == {"vowels", "numbers"}
    assert "in_pool_gain_vs_all_data" in {row.metric for row in report.rows}


def test_all_data_is_one_adapter(model_path: Path, pool: Pool, cache: AnswerCache) -> None:
    with pytest.raises(InvalidRequestError, match="pool of one"):
        run(model_path, pool, SETTINGS, cache, all_data=shared_pool(model_path, 2, seed=9))


def test_a_pool_without_keys_is_refused(model_path: Path, cache: AnswerCache) -> None:
    with pytest.raises(AdapterError, match="no keys"):
        run(model_path, shared_pool(model_path), SETTINGS, cache)


def test_blends_are_told_by_what_they_do(model_path: Path, pool: Pool, cache: AnswerCache) -> None:
    alone = pool_of_vectors(pool, "alone", pool.b[1:2])
    with engine_of(model_path, [pool, alone]) as engine:
        subject = DeviceRunner([engine], cache, "model")
        assert subject.identity(None) == subject.identity(Blend(pool.id, (0.0, 0.0, 0.0))) == ""
        own = subject.identity(Blend(pool.id, (0.0, 1.0, 0.0)))
        assert own == subject.identity(Blend(alone.id, (1.0,)))
        assert own != subject.identity(Blend(pool.id, (0.0, 0.9, 0.0)))
        assert own != subject.identity(Blend(pool.id, (1.0, 0.0, 0.0)))
        with pytest.raises(AdapterError, match="no pool"):
            subject.identity(Blend("another", (1.0,)))
        subject.close()


def test_examples_that_do_not_fit_are_halved(model_path: Path, pool: Pool, cache: AnswerCache) -> None:
    item = load_items("toy", "test")[0]
    turns = [Message("user", "long " * 90), Message("assistant", "answer")]
    with engine_of(model_path, [pool]) as engine:
        subject = DeviceRunner([engine], cache, "model")
        # Two pairs of about 450 tokens fit the context of 1,024.
        many, two, one = subject.answers([Question(item, None, tuple(turns * count)) for count in (16, 2, 1)])
        assert not many.too_long
        assert many.sums == pytest.approx(two.sums, abs=CLOSE)
        assert two.sums != pytest.approx(one.sums, abs=CLOSE)
        assert subject.answers([Question(replace(item, question="x y " * 900))])[0].too_long
        subject.close()


def test_a_customisation_answers_as_its_check_left_it(
    model_path: Path, pool: Pool, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item for topic in ("vowels", "numbers") for item in load_items("toy", "train", topic)[:8]]
    asked = load_items("toy", "test", "numbers")[:4]
    with engine_of(model_path, [pool]) as engine:
        subject = DeviceRunner([engine], cache, "model")
        product = subject.product(as_samples(items), pool.id)
        found = subject.given(product, asked)
        custom = product.customization
        assert custom.expectation is not None
        assert all(len(given.logs) == len(asked[0].choices) for given in found)
        assert sum(np.exp(found[0].logs)) == pytest.approx(1.0, abs=1e-3)
        assert set().union(*(given.kinds for given in found)) <= {*product.kinds, "answers"}
        # The same samples are the same customisation, and others are another.
        assert subject.product(as_samples(items), pool.id).key == product.key
        assert subject.product(as_samples(items[:12]), pool.id).key != product.key
        monkeypatch.setattr(DeviceRunner, "_run", lambda *_: pytest.fail("computed again"))
        assert subject.given(product, asked) == found
        subject.close()


def test_random_adapters_are_as_long_as_the_members(pool: Pool) -> None:
    other = random_pool(pool, 0)
    assert np.linalg.norm(other.b, axis=1) == pytest.approx(np.linalg.norm(pool.b, axis=1), rel=1e-3)
    assert np.abs(np.corrcoef(other.b[0], pool.b[0])[0, 1]) < 0.1
    assert random_pool(pool, 0).id == other.id


def test_the_command_writes_and_prints_the_result(
    model_path: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr("crayon.lab.eval.settings.UNSEEN", (("near", "vowels"),))
    pool.save(tmp_path / "pool")
    words = ["eval", "customize", str(model_path), "--pool", str(tmp_path / "pool"), "--out", str(tmp_path / "out")]
    few = ["--only", "in_pool", "--controls", "base,own", "--items", "3", "--draws", "1", "--samples", "4,1"]
    done = CliRunner().invoke(app, [*words, *few, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out" / "customize.json").read_text())
    assert record["settings"]["samples"] == [4, 1]
    table = CliRunner().invoke(app, [*words, *few])
    assert table.exit_code == 0
    assert "in_pool_fraction_of_own" in table.stdout
    assert "in_pool vowels" in table.stdout
    wrong = CliRunner().invoke(app, [*words, "--only", "nowhere"])
    assert wrong.exit_code != 0
    assert "nowhere" in wrong.output


def test_a_pool_of_other_vectors_has_no_gate_of_the_pool_it_stands_beside(pool: Pool) -> None:
    count = len(pool)
    gate = replace(pool.manifest.gate, alone=(0.5,) * count, mixes=(True,) * count)
    own = Pool.shared(replace(pool.manifest, gate=gate, tensors_sha256=""), pool.b, keys=pool.keys, centre=pool.centre)
    assert len(pool_of_vectors(own, "fresh", pool.b[:1])) == 1
    assert len(random_pool(own, 0)) == count
