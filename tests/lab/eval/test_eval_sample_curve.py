from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.sample_curve import draw, sample_curve

if TYPE_CHECKING:
    from pathlib import Path


def accuracy(group: str, task: str, variant: str, value: float) -> BenchRow:
    return BenchRow("accuracy", value, "points", (), workload="scored", group=group, task=task, variant=variant)


def test_the_curve_is_the_mean_over_tasks_by_number_of_samples() -> None:
    rows = [
        accuracy("unseen", "a", "base", 30), accuracy("unseen", "b", "base", 40), accuracy("unseen", "a", "blend", 60),
        accuracy("unseen", "b", "blend", 70), accuracy("unseen", "a", "blend@4", 50), accuracy("far", "c", "blend", 9),
        accuracy("unseen", "a", "top1", 99), accuracy("mixed", "d", "base", 1), accuracy("mixed", "d", "blend", 2),
    ]  # fmt: skip
    assert sample_curve(rows, 16) == {("unseen", "scored"): {0: 35.0, 4: 50.0, 16: 65.0}}


def test_one_number_of_samples_makes_no_picture(tmp_path: Path) -> None:
    assert not draw([accuracy("unseen", "a", "base", 30), accuracy("unseen", "a", "blend", 60)], 16, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
