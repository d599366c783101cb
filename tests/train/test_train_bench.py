"""PEFT's own blending runs on matrices of a pool's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tiny_chat import write_model
from tiny_pool import shared_pool

from crayon.lab.bench.peft import bench_peft, require

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.train
def test_peft_is_timed_side_by_side_and_by_svd(tmp_path: Path) -> None:
    rows = bench_peft(require(), shared_pool(write_model(tmp_path / "tiny-chat.gguf")), 3)
    assert [row.metric for row in rows] == ["peft_cat_ms", "peft_svd_ms"]
    assert all(row.value > 0 and len(row.runs) == 3 for row in rows)
