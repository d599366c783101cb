"""The wire's bench runs through and prints the rows that are promised; how large the figures are is not tested here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tiny_chat import write_model
from typer.testing import CliRunner

from crayon.cli.shared.app import app
from crayon.lab.bench.wire import bench

if TYPE_CHECKING:
    from pathlib import Path

RATES = ["tokens_per_s", "messages_per_s", "server_cores", "client_cores"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))


def rows(*options: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(app, ["bench", "wire", "--runs", "3", "--json", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["bench"] == "wire"
    found: list[dict[str, object]] = record["rows"]
    return found


def test_echo_is_measured_at_full_speed_and_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "OFFERED", 500)
    monkeypatch.setattr(bench, "PACED_SECONDS", 0.2)
    found = rows("--streams", "4", "--tokens", "10")
    names = [row["metric"] for row in found]
    assert names == [*RATES, *RATES, "coalesce_p50_ms", "coalesce_p99_ms", "arrival_p99_ms"]
    values = {row["metric"]: row["value"] for row in found[4:]}
    assert all(isinstance(value, float) and value > 0 for value in values.values())


def test_a_real_engine_is_measured_with_the_wire_and_without(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny-chat.gguf")
    found = rows("--engine", "llama_cpp", "--streams", "2", "--tokens", "10", "--model", str(model))
    names = [row["metric"] for row in found]
    shares = ["service_overhead_share", "service_and_client_overhead_share"]
    assert names == [*RATES, "direct_tokens_per_s", *shares]
