from __future__ import annotations

import os

import pytest

from crayon import machine
from crayon.machine import usable_cores


@pytest.mark.parametrize(
    ("quota", "affinity", "cores"), [(None, 6, 6), (4.0, 6, 4), (2.9, 6, 2), (0.25, 6, 1), (64.0, 3, 3)]
)
def test_the_smaller_of_affinity_and_quota_counts(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, affinity: int, cores: int
) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert usable_cores() == cores


def test_systems_without_affinity_count_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
