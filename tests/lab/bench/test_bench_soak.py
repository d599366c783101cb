"""A short soak of a real server, and what makes a soak fail."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from crayon.cli.shared.app import app
from crayon.lab.bench import soak
from crayon.lab.bench.soak import SoakOptions, growth_mib
from crayon.lab.bench.soak_traffic import Counts

METRICS = [
    "sent", "answered", "refused", "cancelled", "deadline", "lost", "p50_ms", "p99_ms", "rss_growth_mib",
]  # fmt: skip


def test_a_short_soak_loses_nothing() -> None:
    done = CliRunner().invoke(app, ["bench", "soak", "--minutes", "0.05", "--json"])
    rows = {row["metric"]: row["value"] for row in json.loads(done.stdout)["rows"]}
    assert done.exit_code == 0, done.stderr
    assert list(rows) == METRICS
    assert rows["sent"] == sum(rows[name] for name in ("answered", "refused", "cancelled", "deadline"))
    assert min(rows["answered"], rows["cancelled"], rows["refused"]) > 0


@pytest.mark.parametrize(
    ("counts", "samples", "problem"),
    [
        (Counts(sent=2, answered=1, lost=1), [(0.1, 50.0), (1.0, 50.0)], "1 of 2 requests were lost"),
        (Counts(sent=1, answered=1), [(0.1, 50.0), (0.5, 83.0), (1.0, 50.0)], "grew by 33 MiB"),
        (Counts(sent=1, refused=1), [(0.1, 50.0), (1.0, 50.0)], "no request was answered"),
    ],
    ids=["lost", "grown", "no answer"],
)
def test_what_a_soak_must_not_show_is_named(
    counts: Counts, samples: list[tuple[float, float]], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "bench_soak", lambda options, progress: soak._judge(options, [counts], samples))
    done = CliRunner().invoke(app, ["bench", "soak", "--json"])
    assert done.exit_code == 1
    assert problem in done.stderr
    assert json.loads(done.stdout)["bench"] == "soak"


def test_growth_is_counted_from_the_end_of_the_warm_up() -> None:
    assert growth_mib([(0.0, 10.0), (0.19, 40.0), (0.5, 45.0), (1.0, 41.0)]) == 5.0
    assert growth_mib([(0.0, 10.0), (1.0, 9.0)]) == 0.0


def test_the_model_is_passed_to_the_server(tmp_path) -> None:
    line = soak.command(SoakOptions(minutes=1.0, model="some-model"), tmp_path / "address")
    assert line[line.index("--model") + 1] == "some-model"
    assert "--engine" not in line


def test_attackers_come_in_the_second_half_and_others_are_still_answered() -> None:
    done = CliRunner().invoke(app, ["bench", "soak", "--minutes", "0.15", "--attackers", "--json"])
    rows = {row["metric"]: row["value"] for row in json.loads(done.stdout)["rows"]}
    assert list(rows) == [*METRICS, "p99_ms_alone", "p99_ms_attacked", "p99_ratio"]
    assert rows["lost"] == 0, done.stderr
    assert rows["p99_ms_attacked"] > 0


def test_others_that_wait_too_long_for_attackers_are_named() -> None:
    halves = [Counts(sent=1, answered=1, seconds=[0.1]), Counts(sent=1, answered=1, seconds=[0.4])]
    done = soak._judge(SoakOptions(minutes=1, attackers=True), halves, [(0.1, 50.0), (1.0, 50.0)])
    assert done.problems == ("with attackers the slowest requests took 4.0 times as long, not 3",)
