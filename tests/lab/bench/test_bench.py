"""The benches run through and print the rows that are promised; how large the figures are is not tested here."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from tiny_chat import write_model
from typer.testing import CliRunner

from crayon import Scope
from crayon.cli.shared.app import app
from crayon.device.prepare import compare, write
from crayon.errors import ModelError
from crayon.lab.bench import device as bench
from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.llama.bare import BareLoop
from crayon.llama.model import Model
from crayon.models import prepared, resolve
from crayon.models.prepared import SOURCE, PreparedInfo

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.models import LocalModel

DEVICE_METRICS = [
    "prefill_ratio_vs_library",
    "decode_ratio_vs_library",
    "prepared_turn_ratio_vs_source",
    "prepared_kl",
    "prepared_perplexity_ratio",
    "ttft_overhead_ms",
    "holdback_ms",
    "encode_ms",
]


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def local(models_dir: Path, tmp_path: Path) -> LocalModel:
    return resolve(str(write_model(tmp_path / "tiny-chat.gguf")), models_dir=models_dir)


def keep(local: LocalModel, models_dir: Path, *, chosen: str) -> None:
    """Write down a preparation of this outcome: which type is the fastest of a tiny model is a toss-up."""
    path = None
    if chosen != SOURCE:
        path = prepared.file_for(local.sha256, chosen, models_dir)
        path.parent.mkdir(parents=True)
        write(local.path, path, chosen, local.sha256)
    prepared.keep(
        PreparedInfo(
            chosen=chosen,
            reason="for a test",
            candidates=(),
            max_loss=1.0,
            prompt_tokens=200,
            answer_tokens=50,
            source_sha256=local.sha256,
            machine=prepared.machine_key(),
            library=prepared.library_version(),
            path=path,
            sha256="",
            size=path.stat().st_size if path else 0,
            mtime_ns=path.stat().st_mtime_ns if path else 0,
        ),
        models_dir,
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short workloads of fixed length, and scopes that hold everything: a random model embeds at random."""
    for name, value in (("PROMPT", 80), ("ANSWER", 12), ("BATCH", 64)):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(Model, "is_end", lambda *_: False)  # a random model ends its answers at random
    examples = tuple(f"query {i}" for i in range(8))
    monkeypatch.setattr(bench, "load_scope", lambda name: Scope(name, examples, threshold=-1.0))


def record_of(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    record: dict[str, Any] = json.loads(result.stdout)
    assert set(record) == {"bench", "env", "rows", "made"}
    assert set(record["env"]) == {"cpu", "cores", "memory", "versions", "models"}
    for row in record["rows"]:
        assert {"metric", "value", "unit", "runs"} <= set(row)
        assert set(row) <= {"metric", "value", "unit", "runs", "model", "workload", "against", "note"}
        assert math.isfinite(row["value"])
        assert row["runs"]
    return record


def test_the_device_bench_prints_every_promised_row(small: None, local: LocalModel, models_dir: Path) -> None:
    keep(local, models_dir, chosen="Q8_0")
    record = record_of(CliRunner().invoke(app, ["bench", "device", str(local.path), "--runs", "3", "--json"]))
    assert record["bench"] == "device"
    assert [row["metric"] for row in record["rows"]] == DEVICE_METRICS
    rows = {row["metric"]: row for row in record["rows"]}
    assert all(row["value"] > 0 for row in record["rows"] if row["unit"] == "ratio")
    assert {row["model"] for row in record["rows"]} == {"Q8_0"}
    assert all(len(rows[name]["runs"]) == 3 for name in ("prefill_ratio_vs_library", "holdback_ms", "encode_ms"))
    # A file of 8 bits a weight differs from its source, a little.
    assert 0 < rows["prepared_kl"]["value"] < 0.1
    assert local.sha256 in record["env"]["models"].values()


def test_without_a_prepared_file_the_device_bench_says_what_to_do(local: LocalModel, models_dir: Path) -> None:
    with pytest.raises(ModelError, match="crayon models prepare"):
        bench.bench_device(str(local.path), models_dir=models_dir)


def test_where_the_published_file_is_the_best_the_device_bench_measures_all_else(
    small: None, local: LocalModel, models_dir: Path
) -> None:
    keep(local, models_dir, chosen=SOURCE)
    report = bench.bench_device(str(local.path), models_dir=models_dir, runs=3)
    assert [row.metric for row in report.rows] == [name for name in DEVICE_METRICS if not name.startswith("prepared_")]
    assert len(report.unmeasured) == 1
    assert "the published file is the best here" in report.unmeasured[0]


def test_a_file_beside_itself_loses_nothing(local: LocalModel) -> None:
    from crayon.device.prepare import TurnBench

    with Model(local.path) as model, TurnBench(model, 8, 2, threads=1) as reference:
        pair = compare(reference, local.path, "same", model.tokenize("All that is gold does not glitter. " * 9), 3)
    assert pair.candidate.kl == pytest.approx(0.0, abs=1e-6)
    assert pair.candidate.perplexity_ratio == pytest.approx(1.0, abs=1e-6)
    assert pair.candidate.same_top == 1.0


def test_the_bare_loop_computes_what_it_is_asked_for(local: LocalModel) -> None:
    with BareLoop(local.path, n_ctx=64, n_batch=16, threads=1) as loop:
        read, wrote = loop.run(40, 4)
    assert read > 0
    assert wrote > 0


def test_the_startup_bench_prints_both_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["crayon", "bench", "startup"])  # a process of pytest's own has none
    record = record_of(CliRunner().invoke(app, ["bench", "startup", "--runs", "3", "--json"]))
    assert [row["metric"] for row in record["rows"]] == ["import_ms", "help_ms"]
    assert all(len(row["runs"]) == 3 and row["value"] > 0 for row in record["rows"])
    assert set(record["made"]) == {"command", "began", "seconds", "version", "commit"}
    assert record["made"]["command"].startswith("crayon ")
    assert record["made"]["seconds"] > 0


def test_a_row_is_the_median_of_its_runs_and_names_only_what_it_has() -> None:
    row = BenchRow.median("prefill_ratio_vs_library", "ratio", (1.0, 9.0, 2.0), model="Q8_0")
    assert row.as_json() == {
        "metric": "prefill_ratio_vs_library",
        "value": 2.0,
        "unit": "ratio",
        "runs": [1.0, 9.0, 2.0],
        "model": "Q8_0",
    }
    assert BenchReport("device", rows=[row]).as_json()["rows"] == [row.as_json()]


def test_the_plan_bench_plans_with_few_and_with_all_running() -> None:
    record = record_of(CliRunner().invoke(app, ["bench", "plan", "--steps", "10", "--json"]))
    assert [row["metric"] for row in record["rows"]] == ["plan_ms", "commit_ms"] * 3
    assert [row["workload"] for row in record["rows"]][::2] == [
        "16 running, 240 waiting",
        "64 running, 192 waiting",
        "256 running, 0 waiting",
    ]
    assert all(len(row["runs"]) == 10 and row["value"] > 0 for row in record["rows"])
