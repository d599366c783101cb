from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from crayon.llama import threads
from crayon.llama.threads import cgroup_cpus, usable_cores

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", None), ("200000 100000\n", 2.0), ("50000 100000", 0.5), ("", None), ("x y", None), ("1 0", None)],
)
def test_the_quota_of_version_2(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cgroup_cpus(tmp_path) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("-1", "100000", None), ("150000\n", "100000\n", 1.5), ("x", "1", None), ("5", "0", None)],
)
def test_the_quota_of_version_1(tmp_path: Path, quota: str, period: str, cores: float | None) -> None:
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text(period)
    assert cgroup_cpus(tmp_path) == cores


def test_no_control_group_means_no_quota(tmp_path: Path) -> None:
    assert cgroup_cpus(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "affinity", "cores"), [(None, 6, 6), (4.0, 6, 4), (2.9, 6, 2), (0.25, 6, 1), (64.0, 3, 3)]
)
def test_the_smaller_of_affinity_and_quota_counts(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, affinity: int, cores: int
) -> None:
    monkeypatch.setattr(threads, "cgroup_cpus", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert usable_cores() == cores


def test_systems_without_affinity_count_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cgroup_cpus", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
