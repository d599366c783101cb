from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
from tiny_chat import write_model

from crayon.device import DeviceEngine
from crayon.lab.bench import contention as bench
from crayon.llama.model import Model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("ANSWER", 12), ("LONG_ANSWER", 40), ("SETTLE_S", 0.05)):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(Model, "is_end", lambda *_: False)  # a random model ends its answers at random
    return write_model(tmp_path / "tiny.gguf")


def test_every_promised_row_is_there_and_no_neighbour_stays(path: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with DeviceEngine(path, n_ctx=1024) as server:
        report = bench.bench_contention(str(path), str(path), server, runs=3)
    metrics = [row.metric for row in report.rows]
    for name in ("device_tokens_s", "server_tokens_s", "bare_tokens_s"):
        assert metrics.count(name) == 3
    assert {
        *("device_busy1_ratio", "device_busy2_ratio", "server_busy1_ratio", "server_busy2_ratio"),
        *("idle_ratio", "busy1_ratio_vs_library", "busy2_ratio_vs_library", "both_ratio"),
    } <= set(metrics)
    assert all(len(row.runs) == 3 and min(row.runs) > 0 for row in report.rows)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_neighbours_keep_cores_busy_and_go() -> None:
    with bench.neighbours(2):
        children = [child for child in psutil.Process().children() if bench.BURN in " ".join(child.cmdline())]
        assert len(children) == 2
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
