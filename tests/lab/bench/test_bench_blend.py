"""The bench of blending runs through and prints the rows that are promised; the figures are not tested here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from keyed_pool import BACKGROUND, keyed_pool
from tiny_chat import write_model
from tiny_pool import shared_pool
from typer.testing import CliRunner

from crayon.adapters import Pool
from crayon.cli.shared.app import app
from crayon.completion import Blend
from crayon.customising.store import CustomizationStore
from crayon.device import DeviceEngine
from crayon.errors import AdapterError, AdapterMismatchError, MissingExtraError
from crayon.lab.bench import blend as bench
from crayon.lab.bench import customising

if TYPE_CHECKING:
    from pathlib import Path

POOLED = [
    "weights_ms",
    "blend_and_activate_ms",
    "prefill_ratio_vs_no_adapter",
    "decode_ratio_vs_no_adapter",
    "decode_ratio_vs_live_adapters",
]
CUSTOMISING = [
    "customize_usable_s",
    "customize_checked_s",
    "first_token_added_ms",
    "closed_answer_added_ms",
    "decode_ratio_examples",
]


@pytest.fixture
def model_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    return write_model(tmp_path / "tiny-chat.gguf")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits the small model's context, a letter being a token."""
    monkeypatch.setattr(bench, "ANSWER", 4)
    monkeypatch.setattr(customising, "WRITTEN", 4)
    monkeypatch.setattr(customising, "LETTERS", (("aei oua", "ae"), ("12 34", "12")) * 4)
    monkeypatch.setattr(customising, "QUESTIONS", ("oua aei", "43 21"))


def test_the_command_prints_every_row(model_path: Path, tmp_path: Path) -> None:
    keyed_pool(model_path).save(tmp_path / "pool")
    words = ["bench", "blend", str(model_path), "--pool", str(tmp_path / "pool"), "--runs", "3"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["bench"] == "blend"
    rows = {row["metric"]: row for row in record["rows"]}
    assert [metric for metric in rows if metric != "restart_ratio"] == [*POOLED, *CUSTOMISING]
    assert all(math.isfinite(row["value"]) for row in record["rows"])
    assert [len(rows[metric]["runs"]) for metric in POOLED] == [30, 15, 3, 3, 3]
    assert all(len(rows[metric]["runs"]) == 3 for metric in CUSTOMISING)
    assert "restart_ratio" in rows or any("restart_ratio" in text for text in record["unmeasured"])


def test_a_model_without_a_pool_is_measured_but_for_blending(model_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "blend", "--device", str(model_path), "--runs", "3", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert [row["metric"] for row in record["rows"] if row["metric"] != "restart_ratio"] == CUSTOMISING
    assert "no pool is shipped" in record["unmeasured"][0]


def test_a_pool_must_fit_and_have_keys(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no keys"):
        bench.bench_blend(str(model_path), shared_pool(model_path))
    with pytest.raises(AdapterMismatchError):
        bench.bench_blend(str(model_path), keyed_pool(write_model(tmp_path / "other.gguf", seed=5)))


def test_the_reader_reads_the_examples_where_a_pool_has_one(model_path: Path, tmp_path: Path) -> None:
    found = keyed_pool(model_path)
    members = (*found.manifest.members[:2], replace(found.manifest.members[2], role="reader"))
    gate = replace(found.manifest.gate, mixes=(True, True, False))
    manifest = replace(found.manifest, members=members, gate=gate, tensors_sha256="")
    pool = Pool.shared(manifest, found.b, keys=found.keys, centre=found.centre)
    with DeviceEngine(model_path, n_ctx=1024, n_batch=64, threads=1, background=BACKGROUND, pools=[pool]) as engine:
        blend = customising._keep(engine, tmp_path)
    assert blend == Blend(pool.id, (0.0, 0.0, 1.0))
    (kept,) = CustomizationStore(tmp_path).load("bench").profiles
    assert kept.weights == blend.weights
    assert len(kept.evidence.examples) == len(kept.evidence.labelled) == 8


def test_what_one_run_computed_serves_no_other() -> None:
    runs = [{text for text, _ in customising.letters(run)} for run in range(3)]
    assert len(set.union(*runs)) == sum(map(len, runs))


def test_peft_is_named_by_its_extra(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"crayon-llm\[train\]"):
        bench.bench_blend(str(model_path), keyed_pool(model_path), peft=True)
