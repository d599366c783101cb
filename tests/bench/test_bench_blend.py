"""The bench of blending runs through and prints the rows that are promised; the figures are not tested here."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from keyed_pool import keyed_pool
from tiny_chat import write_model
from tiny_pool import shared_pool
from typer.testing import CliRunner

from crayon.bench import blend as bench
from crayon.cli.app import app
from crayon.errors import AdapterError, AdapterMismatchError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

METRICS = [
    "weights_ms",
    "blend_and_activate_ms",
    "customize_16_s",
    "customize_check_16_s",
    "prefill_ratio_vs_no_adapter",
    "decode_ratio_vs_no_adapter",
    "decode_ratio_vs_live_adapters",
]


@pytest.fixture
def model_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    return write_model(tmp_path / "tiny-chat.gguf")


def test_the_command_prints_every_row(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ANSWER", 4)
    keyed_pool(model_path).save(tmp_path / "pool")
    words = ["bench", "blend", str(model_path), "--pool", str(tmp_path / "pool"), "--runs", "3"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["bench"] == "blend"
    assert [row["metric"] for row in record["rows"]] == METRICS
    assert all(math.isfinite(row["value"]) and row["value"] > 0 for row in record["rows"])
    assert [len(row["runs"]) for row in record["rows"]] == [30, 15, 3, 3, 3, 3, 3]


def test_a_pool_must_fit_and_have_keys(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no keys"):
        bench.bench_blend(str(model_path), shared_pool(model_path))
    with pytest.raises(AdapterMismatchError):
        bench.bench_blend(str(model_path), keyed_pool(write_model(tmp_path / "other.gguf", seed=5)))
    with pytest.raises(AdapterError, match="--pool"):
        bench.bench_blend(str(model_path))


def test_peft_is_named_by_its_extra(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"crayon-llm\[train\]"):
        bench.bench_blend(str(model_path), keyed_pool(model_path), peft=True)
