"""The replay of rules for admission: a case worked out by hand, what holds for any requests, and the rows promised."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crayon.bench.kv_prediction import CONTESTANTS, ORACLE, SIZES, WORKLOADS, Contestant, Workload, bench_kv
from crayon.bench.kv_replay import Arrival, Replay, Tally
from crayon.cli.app import app
from crayon.server.prediction import Rule
from crayon.server.scheduler.lengths import MIN_SEEN, Lengths

METRICS = {
    "kv_running",
    "kv_tokens_per_step",
    "kv_ratio_vs_oracle",
    "kv_overcommitted_steps",
    "kv_moved_per_1000_written",
}
ARRIVALS = st.lists(
    st.builds(Arrival, prompt=st.integers(1, 30), length=st.integers(1, 30), most=st.integers(1, 20)),
    min_size=1,
    max_size=60,
)


def test_an_oracle_fills_the_cache_to_the_last_token() -> None:
    # Each holds 5 at its end: two fit, the third waits until they are gone.
    tally = Replay(iter([Arrival(3, 2, 4)] * 3), 10).run(9)
    assert tally == Tally(steps=4, running=6, read=9, finished=3, fullest=10)


def test_the_youngest_moves_out_and_comes_back_without_losing_a_token() -> None:
    lengths = Lengths(Rule.MEAN)
    for _ in range(MIN_SEEN):
        lengths.observe(1, ended=True)
    # Taken for answers of one token they fit; at the third step they need 6 + 6.
    tally = Replay(iter([Arrival(3, 4, 4)] * 2), 10, lengths).run(9)
    assert tally == Tally(steps=6, running=8, read=6, finished=2, overcommits=1, moved=5, fullest=10)


def test_the_worst_case_keeps_room_for_tokens_that_never_come() -> None:
    arrivals = [Arrival(1, 1, 9)] * 2
    assert Replay(iter(arrivals), 10, Lengths(Rule.WORST)).run(9).steps == 2
    assert Replay(iter(arrivals), 10).run(9).steps == 1


def test_answers_cut_by_their_limit_are_learnt_as_cut() -> None:
    lengths = Lengths(Rule.MEAN)
    Replay(iter([Arrival(1, 50, 5)] * MIN_SEEN), 100, lengths).run(200)
    assert lengths.seen == MIN_SEEN
    assert lengths.remaining(0, 20) == 20


@settings(deadline=None)
@given(st.sampled_from(CONTESTANTS), ARRIVALS, st.integers(0, 100))
def test_every_answer_is_written_once_and_the_cache_never_overflows(
    contestant: Contestant, arrivals: list[Arrival], room: int
) -> None:
    capacity = room + max(arrival.prompt + arrival.most for arrival in arrivals)
    tally = contestant.replay(iter(arrivals), capacity).run(10_000)
    assert tally.finished == len(arrivals)
    assert tally.running == sum(arrival.written for arrival in arrivals)
    assert tally.read == sum(arrival.prompt for arrival in arrivals)
    assert tally.fullest <= capacity
    assert (tally.moved > 0) is (tally.overcommits > 0)


@settings(deadline=None)
@given(st.sampled_from([Contestant(ORACLE), Contestant("worst case", Rule.WORST)]), ARRIVALS, st.integers(0, 100))
def test_lengths_that_are_known_never_overcommit(contestant: Contestant, arrivals: list[Arrival], room: int) -> None:
    capacity = room + max(arrival.prompt + arrival.most for arrival in arrivals)
    tally = contestant.replay(iter(arrivals), capacity).run(10_000)
    assert (tally.overcommits, tally.moved) == (0, 0)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_draws_have_the_means_and_deviations_of_the_paper(workload: Workload) -> None:
    drawn = list(islice(workload.arrivals(0, 10**9), 50_000))
    for values, (mean, deviation) in (
        ([arrival.prompt for arrival in drawn], workload.prompt),
        ([arrival.length for arrival in drawn], workload.answer),
    ):
        assert np.mean(values) == pytest.approx(mean, rel=0.05)
        assert np.std(values) == pytest.approx(deviation, rel=0.15)
    assert 0.003 < np.mean([arrival.length > arrival.most for arrival in drawn]) < 0.03


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
@pytest.mark.parametrize("size", SIZES)
def test_every_request_of_a_workload_fits_an_empty_cache(workload: Workload, size: int) -> None:
    capacity = workload.capacity(size)
    assert all(arrival.prompt + arrival.most <= capacity for arrival in islice(workload.arrivals(1, capacity), 5000))


def test_the_bench_prints_every_promised_row_and_repeats_itself() -> None:
    report = bench_kv(answers=3, seeds=2)
    assert len(report.rows) == len(METRICS) * len(WORKLOADS) * len(SIZES) * len(CONTESTANTS)
    assert {row.metric for row in report.rows} == METRICS
    assert {len(row.runs) for row in report.rows} == {2}
    assert report.rows == bench_kv(answers=3, seeds=2).rows
    for row in report.rows:
        known = row.workload is not None and row.workload.endswith((ORACLE, "worst case"))
        if row.metric == "kv_overcommitted_steps" and known:
            assert row.value == 0
        if row.metric == "kv_ratio_vs_oracle" and row.workload is not None and row.workload.endswith(ORACLE):
            assert row.value == 1


def test_the_command_prints_json_and_lines() -> None:
    arguments = ["bench", "kv", "--answers", "1", "--seeds", "1"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["bench"] == "kv"
    assert {row["metric"] for row in record["rows"]} == METRICS
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "LMSYS-Chat, cache for 64: shares + 2 sd" in done.stdout
