"""Properties of the scheduler, over whatever hypothesis can think of, on the simulated engine."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Job, Report, SimulatedCache, SimulatedEngine

from crayon.errors import EngineError
from crayon.server.scheduler import DropReason, Kind, KvOp, LinearCost, Request, Resource, Row, StepLimits

CLOCK = st.floats(0, 3, allow_nan=False)


@st.composite
def drawn_limits(draw: st.DrawFn) -> StepLimits:
    seqs = draw(st.integers(1, 6))
    return StepLimits(
        max_tokens=draw(st.integers(seqs, 40)),
        max_seqs=seqs,
        kv_capacity=draw(st.integers(30, 200)),
        max_outputs=draw(st.none() | st.integers(seqs, 10)),
        max_slots=draw(st.none() | st.integers(1, 6)),
        max_blends=draw(st.integers(1, 3)),
        step_seconds=draw(st.none() | st.floats(0.005, 0.2)),
        min_tokens=draw(st.integers(1, 8)),
    )


@st.composite
def jobs(draw: st.DrawFn, *, perfect: bool = False) -> list[Job]:
    made = []
    for i in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(Kind))
        generate, encode = kind is Kind.GENERATE, kind is Kind.ENCODE
        arrival = draw(CLOCK)
        request = Request(
            id=str(i),
            kind=kind,
            prompt=0 if encode else draw(st.integers(1, 40)),
            max_tokens=draw(st.integers(1, 30)) if generate else 0,
            branches=() if generate else tuple(draw(st.lists(st.integers(1, 20), min_size=encode, max_size=5))),
            blend=draw(st.sampled_from(["", "x", "y", "z"])),
            priority=draw(st.integers(-1, 1)),
            arrival=arrival,
            deadline=None if perfect else draw(st.none() | CLOCK.map(lambda more, at=arrival: at + more)),
        )
        made.append(
            Job(
                request=request,
                length=draw(st.none() | st.integers(1, 30)) if generate else None,
                cancel_at=None if perfect else draw(st.none() | CLOCK),
            )
        )
    return made


def expected_positions(job: Job) -> dict[int | None, list[int]]:
    request = job.request
    answer = 0
    if request.kind is Kind.GENERATE:
        answer = min(request.max_tokens, job.length or request.max_tokens) - 1
    trunk: dict[int | None, list[int]] = {None: list(range(request.prompt + answer))} if request.prompt else {}
    return trunk | {
        i: list(range(request.prompt, request.prompt + length)) for i, length in enumerate(request.branches)
    }


def computed_of(report: Report, name: str) -> dict[int | None, list[int]]:
    return {branch: positions for (owner, branch), positions in report.computed.items() if owner == name}


@given(drawn_limits(), jobs())
@settings(max_examples=150, deadline=None)
def test_every_token_is_computed_once_and_in_order_or_the_request_was_dropped(
    limits: StepLimits, work: list[Job]
) -> None:
    report = SimulatedEngine(limits, LinearCost(0.01, 0.002)).run(work)
    for job in work:
        name, wanted = job.request.id, expected_positions(job)
        found = computed_of(report, name)
        if name in report.finished:
            assert found == wanted
            assert name not in report.dropped
        else:
            assert name in report.dropped
            for branch, positions in found.items():
                assert positions == wanted[branch][: len(positions)]


@given(drawn_limits(), jobs(perfect=True))
@settings(max_examples=100, deadline=None)
def test_all_that_fits_is_finished_within_the_stated_bound(limits: StepLimits, work: list[Job]) -> None:
    originals = {job.request.id: copy.deepcopy(job.request) for job in work}
    report = SimulatedEngine(limits, LinearCost(0.01, 0.002)).run(work)
    tokens = {job.request.id: sum(len(positions) for positions in expected_positions(job).values()) for job in work}
    for name, request in originals.items():
        if not request.ever_fits(limits):
            assert report.dropped[name][1] is DropReason.NEVER_FITS
            continue
        arrived = report.arrived[name]
        ahead = sum(
            tokens[other.id]
            for other in originals.values()
            if other.ever_fits(limits)
            and report.finished[other.id] >= arrived
            and (other.turn[0] <= request.turn[0] or report.arrived[other.id] < arrived)
        )
        assert report.finished[name] - arrived <= limits.max_seqs * ahead


@given(drawn_limits(), jobs())
@settings(max_examples=100, deadline=None)
def test_one_request_is_cut_at_most_and_the_cache_is_never_overdrawn(limits: StepLimits, work: list[Job]) -> None:
    by_id = {job.request.id: job.request for job in work}
    report = SimulatedEngine(limits, LinearCost(0.01, 0.002)).run(work)
    for step in report.steps:
        cut = set()
        for nano in step.plan.nano:
            for row in nano.rows:
                request = by_id[row.request]
                end = request.prompt if row.branch is None else request.prompt + request.branches[row.branch]
                # Continuations may be cut by the rows of logits that are left, too.
                scored = request.kind is Kind.SCORE and row.branch is not None
                if row.start < end and row.start + row.tokens < end and not scored:
                    cut.add(row.request)
        assert len(cut) <= 1
        assert step.cells <= limits.kv_capacity


@given(drawn_limits(), jobs())
@settings(max_examples=100, deadline=None)
def test_nano_batches_are_of_one_blend_and_class_and_concatenate_to_the_plan(
    limits: StepLimits, work: list[Job]
) -> None:
    by_id = {job.request.id: job.request for job in work}
    report = SimulatedEngine(limits, LinearCost(0.01, 0.002)).run(work)
    for step in report.steps:
        nano = step.plan.nano
        calls = step.plan.calls()
        assert [part for call in calls for part in call] == list(nano)
        assert all(len({part.blend for part in call}) == 1 for call in calls)
        assert sum(part.tokens for part in nano) == step.plan.tokens
        for part in nano:
            assert {by_id[row.request].blend for row in part.rows} == {part.blend}
            kinds = {by_id[row.request].kind for row in part.rows}
            assert (kinds == {Kind.ENCODE}) is (part.resource is Resource.ENCODE)
            if part.resource is Resource.DECODE:
                assert all(row.tokens == 1 and row.start >= by_id[row.request].prompt for row in part.rows)


@given(drawn_limits(), jobs())
@settings(max_examples=100, deadline=None)
def test_a_cancelled_request_is_gone_at_the_next_plan(limits: StepLimits, work: list[Job]) -> None:
    report = SimulatedEngine(limits, LinearCost(0.01, 0.002)).run(work)
    for name, at in report.cancelled.items():
        assert report.dropped[name] == (at, DropReason.CANCELLED)


@given(drawn_limits(), jobs())
@settings(max_examples=50, deadline=None)
def test_a_run_repeats_itself(limits: StepLimits, work: list[Job]) -> None:
    again = copy.deepcopy(work)
    first = SimulatedEngine(limits, LinearCost(0.01, 0.002)).run(work)
    assert SimulatedEngine(limits, LinearCost(0.01, 0.002)).run(again) == first


def test_under_load_every_step_is_full() -> None:
    limits = StepLimits(max_tokens=32, max_seqs=24, kv_capacity=4096)
    work = [Job(request=Request(id=str(i), kind=Kind.GENERATE, prompt=48, max_tokens=16), length=16) for i in range(64)]
    report = SimulatedEngine(limits).run(work)
    sizes = [step.plan.tokens for step in report.steps]
    busy = sizes[: report.finished["50"]]
    assert sum(size == 32 for size in busy) > 0.7 * len(busy)


def test_a_long_prompt_does_not_stop_the_others() -> None:
    limits = StepLimits(max_tokens=512, max_seqs=4, kv_capacity=8192, step_seconds=0.1)
    work = [
        Job(request=Request(id="short", kind=Kind.GENERATE, prompt=10, max_tokens=200)),
        Job(request=Request(id="long", kind=Kind.GENERATE, prompt=4000, max_tokens=10, arrival=0.2)),
    ]
    report = SimulatedEngine(limits, LinearCost(0.01, 0.001)).run(work)
    ends = [
        step.end for step in report.steps if any(row.request == "short" for nano in step.plan.nano for row in nano.rows)
    ]
    assert max(b - a for a, b in pairwise(ends)) <= 0.1 + 1e-9


def test_the_simulated_cache_refuses_what_a_real_one_would() -> None:
    cache = SimulatedCache(2)
    cache.compute(Row("a", 0, 0, 3, 0))
    with pytest.raises(EngineError, match="starts at 2"):
        cache.compute(Row("a", 0, 2, 1, 0))
    with pytest.raises(EngineError, match="not of b"):
        cache.compute(Row("b", 0, 3, 1, 0))
    with pytest.raises(EngineError, match="4 are wanted"):
        cache.apply(KvOp(1, 0, 4))
    cache.apply(KvOp(1, 0, 2))
    assert cache.used == 3
    cache.apply(KvOp(0, 0, 0))
    assert cache.used == 2
