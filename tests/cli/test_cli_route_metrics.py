from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from crayon.cli.app import app

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qa").mkdir()
    (tmp_path / "routing").mkdir()
    lines = [
        json.dumps({"id": f"{name}/{i}", "small_correct": i % 3 == 0, "large_correct": i % 4 != 0})
        for name in ("mmlu_stem", "gsm8k")
        for i in range(24)
    ]
    (tmp_path / "routing" / "small_vs_large.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    monkeypatch.setenv("CRAYON_DATA", str(tmp_path))


def test_route_metrics_prints_every_figure_of_every_group(runner: CliRunner, labels: None) -> None:
    result = runner.invoke(app, ["eval", "route-metrics"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("mmlu, 24 questions\n")
    for figure in ("weak", "strong", "only weak", "only strong", "neither", "oracle cpt50", "random apgr"):
        assert result.stdout.count(f"  {figure} ") >= 3
    assert "33.33 %" in result.stdout


def test_route_metrics_in_json(runner: CliRunner, labels: None) -> None:
    result = runner.invoke(app, ["eval", "route-metrics", "--json"])
    mmlu, gsm8k, everything = json.loads(result.stdout)
    assert (mmlu["group"], gsm8k["group"], everything["group"]) == ("mmlu", "gsm8k", "all")
    assert mmlu["weak"] == pytest.approx(100 / 3)
    assert everything["n"] == 48
