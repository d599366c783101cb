from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from crayon.lab.bench import made
from crayon.lab.eval import tables

if TYPE_CHECKING:
    from pathlib import Path

ROW = {"metric": "gain", "value": 1.25, "unit": "points", "ci_low": -0.04, "ci_high": 2.0}


def test_figures_carry_their_intervals() -> None:
    assert tables.figure(ROW, sign=True) == "+1.2 [0.0, +2.0]"
    assert tables.figure({"value": 3.14159}, 2) == "3.14"
    assert tables.figure(None) == ""


def test_a_table_is_markdown() -> None:
    assert tables.table(["a", "b"], [["x", "1"]]) == ["| a | b |", "| --- | ---: |", "| x | 1 |"]


def test_what_lost_and_what_is_unsure_is_told_apart() -> None:
    rows = [ROW, {**ROW, "metric": "worse", "ci_low": -5.0, "ci_high": -1.0}, {**ROW, "metric": "good", "ci_low": 1.0}]
    lines = tables.lost(rows, lambda row: str(row["metric"]))
    assert lines[0] == "Shown to be worse:"
    assert lines[2].startswith("- worse: ")
    assert any(line.startswith("- gain: ") for line in lines)
    assert not any("good" in line for line in lines)
    assert tables.lost([rows[2]], lambda _: "x") == ["Nothing measured here came out worse.", ""]


def test_a_line_under_each_table_says_how_it_was_made() -> None:
    env = {"cpu": "C", "cores": 2, "memory": 8 * 2**30, "versions": {"numpy": "2"}, "models": {"m": "ab" * 32}}
    how = {"command": "crayon eval run", "commit": "abc", "began": "2026-11-26", "seconds": 120.0}
    (_, line, _) = tables.how({"bench": "eval run", "env": env, "made": how})
    for part in ("`crayon eval run`", "commit abc", "2 min", "C, 2 cores, 8 GiB", "numpy 2", "m (abababababab)"):
        assert part in line
    assert "`eval run`" in tables.how({"bench": "eval run", "env": env})[1]


def test_the_commit_says_where_files_differ(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *name, *words], check=True, capture_output=True)

    assert made.commit(tmp_path / "nowhere") == ""
    git("init")
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git("add", "a")
    git("commit", "-m", "a")
    clean = made.commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert made.commit(tmp_path) == f"{clean}+changes"


def test_the_command_is_quoted_as_a_shell_reads_it() -> None:
    done = made.Making.of(["eval", "run", "--out", "a b"]).done()
    assert done["command"] == "crayon eval run --out 'a b'"
    assert done["seconds"] >= 0
