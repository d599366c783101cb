"""Rows and shares are what one gets by hand; pictures are drawn from what was found."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from crayon.errors import MissingExtraError
from crayon.lab.bench.report import BenchRow
from crayon.lab.bench.serving.client import Run, TimedRequest, Timing
from crayon.lab.bench.serving.online import HighestRate, RateResult
from crayon.lab.bench.serving.optimum import Optimum, decode_rate, measure
from crayon.lab.bench.serving.plots import LATENCY, THROUGHPUT, Curves, draw
from crayon.lab.bench.serving.prompts import Prompt
from crayon.lab.bench.serving.race_online import Online
from crayon.lab.bench.serving.rows import Raced, fraction_row, geometric_mean_row, offline_row, online_rows
from crayon.lab.bench.serving.workloads import TextPair, Workload
from crayon.llama.model import Model

if TYPE_CHECKING:
    from pathlib import Path

OPTIMUM = Optimum(prefill_rate=100.0, ubatch=256, head_seconds=0.01, step_seconds=0.05)
WORK = Workload("128/64", (TextPair(40, 3), TextPair(60, 2)))


def run_in(seconds: float) -> Run:
    """Prompts of 40 and 60 tokens, answers of 3 and 2; the last first token comes at half the time."""
    jobs = [TimedRequest(Prompt((), tuple(range(pair.prompt))), pair.answer) for pair in WORK.pairs]
    first = Timing(jobs[0], 0.0, [(seconds / 4, 1), (seconds / 2, 1), (seconds, 1)], finished=True)
    second = Timing(jobs[1], 0.0, [(seconds / 2, 1), (seconds, 1)], finished=True)
    return Run((first, second), seconds, seconds / 10)


def raced(ours: tuple[float, ...], theirs: tuple[float, ...]) -> Raced:
    return Raced(WORK, tuple(map(run_in, ours)), tuple(map(run_in, theirs)), "llama-server -np 8", "-np 16")


def test_a_run_counts_prompt_and_answer_tokens() -> None:
    run = run_in(2.0)
    assert run.tokens == 105
    assert run.tokens_per_second == 52.5
    assert run.client_share == pytest.approx(0.1)


def test_an_offline_row_is_the_median_of_pairs() -> None:
    row = offline_row("m", raced((2.0, 1.0, 4.0), (4.0, 4.0, 4.0)), OPTIMUM)
    assert (row.metric, row.model, row.workload) == ("offline_ratio_vs_llama_server", "m", "128/64")
    assert row.runs == (2.0, 4.0, 1.0)
    assert row.value == 2.0
    assert row.against == "llama-server -np 8"
    assert row.note is not None
    for said in ("52 against 26 tokens/s", "ours with -np 16", "0.10 cores", "2 requests, 105 tokens"):
        assert said in row.note


def test_the_share_of_the_optimum_counts_logits_at_their_own_cost() -> None:
    # All prompts (100), and of the answers that were written the tokens that were computed (all but the last of each):
    # 102 or 103 tokens; a row of logits for each token written.
    assert OPTIMUM.ideal_seconds(100, 3) == pytest.approx(1.03)
    assert OPTIMUM.fraction(run_in(2.0)) == pytest.approx((103 / 100 + 5 * 0.01) / 2.0)
    # Up to the last first token, at 1.0: two tokens of the first answer and one of the second.
    assert OPTIMUM.saturated_fraction(run_in(2.0)) == pytest.approx((101 / 100 + 3 * 0.01) / 1.0)


def test_a_fraction_row_tells_the_losses_that_the_server_tells() -> None:
    row = fraction_row("m", raced((2.0,), (2.0,)), OPTIMUM)
    assert row.value == pytest.approx(1.04)
    assert row.note is not None
    assert "does not tell" in row.note
    told = Raced(WORK, (run_in(2.0),), (), "", "", {"host gap": 0.0412, "fill": 0.9})
    note = fraction_row("m", told, OPTIMUM).note
    assert note is not None
    assert "host gap 0.041, fill 0.900" in note


def test_a_mean_over_workloads_is_geometric() -> None:
    rows = [
        BenchRow("x", value, "ratio", (value,), "m", f"w{value}", "llama-server -np 8") for value in (1.0, 2.0, 4.0)
    ]
    row = geometric_mean_row("x", "m", rows)
    assert row.value == pytest.approx(2.0)
    assert row.runs == (1.0, 2.0, 4.0)
    assert (row.workload, row.against) == ("geometric mean of 3 workloads", "llama-server")


def verdict(rate: float, *, passed: bool = True) -> RateResult:
    return RateResult(rate, 0.05, 0.4, 0.06, 1.07, 0.5 if passed else 2.0, grows=False, unfinished=0)


def test_online_rows_hold_both_rates() -> None:
    ours = HighestRate(6.0, (verdict(4.0), verdict(6.0), verdict(7.0, passed=False)))
    theirs = HighestRate(4.0, (verdict(4.0), verdict(6.0, passed=False)))
    ratio, mine, other = online_rows("m", "128/64", ours, theirs, "llama-server -np 8", "crayon -np 8")
    assert (ratio.metric, ratio.value) == ("online_rate_ratio_vs_llama_server", 1.5)
    assert (mine.value, other.value) == (6.0, 4.0)
    held = "p95 between tokens 50 ms, to the first token 0.40 s"
    assert mine.note == f"{held}; at 7.00: 2.00 times the bound is waited (50 ms between tokens, 0.40 s for the first)"
    bad = replace(verdict(5.0), grows=True, unfinished=2)
    _, mine, _ = online_rows(
        "m", "128/64", HighestRate(4.0, (verdict(4.0), bad, verdict(7.0, passed=False))), theirs, "x", "y"
    )
    assert mine.note == f"{held}; at 5.00: ever more answers are under way, 2 answers have no end"


def test_a_peer_that_keeps_no_bound_is_not_divided_by() -> None:
    none = HighestRate(0.0, (verdict(4.0, passed=False), verdict(1.0, passed=False)))
    ratio, _, other = online_rows("m", "w", HighestRate(3.0, (verdict(3.0),)), none, "llama-server", "crayon")
    assert ratio.value == 3.0
    assert ratio.note is not None
    assert "at no rate, so 1.00 stands in" in ratio.note
    assert other.note is not None
    assert other.note.startswith("no rate that was tried keeps the bounds; at 1.00: 2.00 times the bound")


def test_the_bare_library_is_measured_on_every_count(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crayon.lab.bench.serving.optimum.UBATCHES", (64, 128))
    with Model(tiny_path) as model:
        found = measure(model, threads=1, runs=2)
        assert 0 < decode_rate(model, 64, 4, threads=1) < 1e6
    assert found.ubatch in {64, 128}
    assert min(found.prefill_rate, found.step_seconds) > 0
    assert found.head_seconds >= 0
    assert all(math.isfinite(value) for value in (found.prefill_rate, found.head_seconds))


def test_pictures_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    assert draw(Curves(), tmp_path) == []
    found = HighestRate(4.0, (verdict(4.0), verdict(2.0)))
    curves = Curves(
        {"m": {"crayon": [(1.0, 50.0), (4.0, 150.0)], "llama-server": [(1.0, 40.0)]}},
        {"m, 128/64": Online("128/64", found, HighestRate(0.0, ()), "llama-server -np 8", "crayon -np 8")},
    )
    written = draw(curves, tmp_path)
    assert [path.name for path in written] == [THROUGHPUT, LATENCY]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_the_extra_of_pictures_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"crayon-llm\[plots\]"):
        draw(Curves(), tmp_path)
