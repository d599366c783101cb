"""The cache overcommitted and shared, over whatever hypothesis can think of, on the simulated engine."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Job, Report, SimulatedCache, SimulatedEngine

from crayon.server.forecast.occupancy import LEAST_GROWTH
from crayon.server.scheduler import (
    Kind,
    KvOp,
    LinearCost,
    Request,
    Restore,
    Row,
    Share,
    Spill,
    State,
    StepLimits,
    StepOutcome,
    StepPlan,
    TokenIndex,
    commit,
    plan,
)
from crayon.server.scheduler.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.server.scheduler import LengthModel

COST = LinearCost(0.01, 0.001)


@dataclass(frozen=True)
class Always:
    """A prediction that is as wrong as can be."""

    tokens: int

    def remaining(self, generated: int, most: int, *, group: str = "") -> int:
        return max(1, min(most, self.tokens))


def generate(name: str, prompt: int, max_tokens: int = 4, **more: object) -> Request:
    return Request(id=name, kind=Kind.GENERATE, prompt=prompt, max_tokens=max_tokens, **more)  # type: ignore[arg-type]  # keywords of one test each


def go(
    state: State, limits: StepLimits, lengths: LengthModel | None = None, index: TokenIndex | None = None
) -> StepPlan:
    before = copy.deepcopy(state)
    step = plan(state, limits, COST, lengths, index)
    assert state == before
    commit(state, step, StepOutcome())
    return step


@st.composite
def make_limits(draw: st.DrawFn, *, spill: bool = True) -> StepLimits:
    seqs = draw(st.integers(1, 6))
    return StepLimits(
        max_tokens=draw(st.integers(seqs, 30)),
        max_seqs=seqs,
        kv_capacity=draw(st.integers(12, 80)),
        encode_capacity=draw(st.none() | st.integers(10, 40)),
        max_slots=draw(st.none() | st.integers(1, 3)),
        max_blends=draw(st.integers(1, 3)),
        quantum=draw(st.sampled_from([0, 0, 5, 20])),
        spill=spill,
        max_idle_prefixes=draw(st.integers(0, 3)),
        cut_limit=draw(st.none() | st.integers(0, 12)),
    )


@st.composite
def jobs(draw: st.DrawFn, *, quiet: bool = True, clients: str = "ab") -> list[Job]:
    made = []
    for i in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from([Kind.GENERATE, Kind.GENERATE, Kind.GENERATE, Kind.SCORE, Kind.ENCODE]))
        text, encode = kind is Kind.GENERATE, kind is Kind.ENCODE
        prompt = 0 if encode else draw(st.integers(1, 16))
        arrival = draw(st.floats(0, 1, allow_nan=False))
        request = Request(
            id=str(i),
            kind=kind,
            prompt=prompt,
            max_tokens=draw(st.integers(1, 40)) if text else 0,
            branches=() if text else tuple(draw(st.lists(st.integers(1, 6), min_size=encode, max_size=4))),
            blend=draw(st.sampled_from(["", "", "x"])),
            client=draw(st.sampled_from(clients)),
            arrival=arrival,
            deadline=None if quiet else draw(st.none() | st.floats(0, 2).map(lambda more, at=arrival: at + more)),
        )
        # Few distinct tokens in long equal stretches, so that most begin alike and part somewhere.
        head = draw(st.sampled_from([(1,) * 12, (1,) * 6 + (2,) * 6, (3,)]))
        ids = (*head, *draw(st.lists(st.integers(1, 2), min_size=4, max_size=4)), *[i + 10] * 60)[: prompt + 40]
        made.append(
            Job(
                request=request,
                length=draw(st.none() | st.integers(1, 40)) if text else None,
                cancel_at=None if quiet else draw(st.none() | st.floats(0, 2)),
                ids=() if encode else ids,
            )
        )
    return made


def wanted(job: Job, report: Report) -> Mapping[int | None, list[int]]:
    request = job.request
    answer = 0
    if request.kind is Kind.GENERATE:
        answer = min(request.max_tokens, job.length or request.max_tokens) - 1
    shared = report.shared.get(request.id, 0)
    trunk: dict[int | None, list[int]] = {}
    if request.prompt:
        trunk[None] = list(range(shared, request.prompt + answer))
    return trunk | {i: list(range(request.prompt, request.prompt + n)) for i, n in enumerate(request.branches)}


@given(make_limits(), jobs(), st.sampled_from([Always(1), Always(3), Always(1000), None]))
@settings(max_examples=150, deadline=None)
def test_whatever_is_predicted_all_finish_with_each_token_computed_once(
    limits: StepLimits, work: list[Job], lengths: LengthModel | None
) -> None:
    report = SimulatedEngine(limits, COST, lengths=lengths).run(work, max_steps=20_000)
    for job in work:
        name = job.request.id
        if not job.request.ever_fits(limits):
            assert name in report.dropped
            continue
        assert name in report.finished
        found = {branch: positions for (owner, branch), positions in report.computed.items() if owner == name}
        assert found == wanted(job, report)
    assert all(step.cells <= limits.kv_capacity for step in report.steps)


@given(make_limits(), jobs(quiet=False), st.sampled_from([Always(1), Always(5)]))
@settings(max_examples=80, deadline=None)
def test_the_cancelled_and_expired_are_gone_at_the_next_plan_spilled_or_not(
    limits: StepLimits, work: list[Job], lengths: LengthModel
) -> None:
    report = SimulatedEngine(limits, COST, lengths=lengths).run(work, max_steps=20_000)
    for name, at in report.cancelled.items():
        assert report.dropped[name][0] == at
    assert {*report.finished, *report.dropped} == {job.request.id for job in work}


@given(make_limits(), jobs(clients="a"), st.sampled_from([Always(1), Always(3)]))
@settings(max_examples=80, deadline=None)
def test_only_the_youngest_are_spilled_and_nobody_new_comes_before_they_are_back(
    limits: StepLimits, work: list[Job], lengths: LengthModel
) -> None:
    engine = SimulatedEngine(limits, COST, lengths=lengths)
    kinds = {job.request.id: job.request.kind for job in work}
    order: list[str] = []
    out: set[str] = set()
    for step in engine.run(work, max_steps=20_000).steps:
        done = {name for name, at in engine.report.finished.items() if at < step.plan.step}
        live = [name for name in order if name not in done and kinds[name] is Kind.GENERATE]
        for spill in step.plan.spills:
            assert spill.request == [name for name in live if name not in out][-1]
            out.add(spill.request)
        for restore in step.plan.restores:
            assert restore.request == next(name for name in live if name in out)
            out.discard(restore.request)
        if step.plan.admissions:
            assert not out
        order += [admission.request for admission in step.plan.admissions]


@given(make_limits(), jobs(clients="a"))
@settings(max_examples=80, deadline=None)
def test_the_worst_case_reserved_nobody_is_spilled(limits: StepLimits, work: list[Job]) -> None:
    assert not SimulatedEngine(limits, COST).run(work).spilled


def test_the_youngest_is_spilled_and_goes_on_where_it_was() -> None:
    limits = StepLimits(max_tokens=16, max_seqs=2, kv_capacity=30, spill=True)
    state = State()
    for name in ("old", "young"):
        state.add(generate(name, 5, 20))
    steps = []
    while len(state):
        steps.append(go(state, limits, Always(1)))
    spills = [spill for step in steps for spill in step.spills]
    restores = [restore for step in steps for restore in step.restores]
    assert (spills, restores) == ([], [])  # 5 + 16 for each would not fit together: they run one after the other
    limits = StepLimits(max_tokens=16, max_seqs=2, kv_capacity=44, spill=True)
    for name in ("old", "young"):
        state.add(generate(name, 5, 30))
    steps = []
    while len(state):
        steps.append(go(state, limits, Always(1)))
    assert [spill for step in steps for spill in step.spills] == [Spill("young", 1)]
    assert [restore for step in steps for restore in step.restores] == [Restore("young", 0)]
    rows = [row for step in steps for nano in step.nano for row in nano.rows if row.request == "young"]
    assert [row.start for row in rows] == [0, *range(5, 34)]


def test_a_restored_request_is_let_be_for_some_tokens() -> None:
    limits = StepLimits(max_tokens=16, max_seqs=4, kv_capacity=100, spill=True)
    work = [Job(request=generate(str(i), 8, 60)) for i in range(8)]
    report = SimulatedEngine(limits, COST, lengths=Always(1)).run(work)
    assert report.spilled
    back: dict[str, int] = {}
    written: dict[str, int] = {}
    for step in report.steps:
        for spill in step.plan.spills:
            if spill.request in back:
                assert written[spill.request] - back[spill.request] >= LEAST_GROWTH
        for restore in step.plan.restores:
            back[restore.request] = written.get(restore.request, 0)
        for nano in step.plan.nano:
            for row in nano.rows:
                written[row.request] = written.get(row.request, 0) + row.logits


def test_a_right_prediction_lets_more_in_than_the_worst_case() -> None:
    limits = StepLimits(max_tokens=16, max_seqs=4, kv_capacity=100, spill=True)
    state = State()
    for i in range(4):
        state.add(generate(str(i), 4, 60))
    assert len(plan(state, limits, COST).admissions) == 1
    assert len(plan(state, limits, COST, Always(5)).admissions) == 4


def test_an_engine_that_cannot_spill_reserves_the_worst_case() -> None:
    limits = StepLimits(max_tokens=16, max_seqs=4, kv_capacity=100)
    state = State()
    for i in range(4):
        state.add(generate(str(i), 4, 60))
    assert len(plan(state, limits, COST, Always(5)).admissions) == 1


def test_a_prompt_begins_with_what_a_running_one_holds() -> None:
    limits = StepLimits(max_tokens=16, max_seqs=4, kv_capacity=100)
    state, index = State(), TokenIndex()
    index.add("a", "", [1, 2, 3, 4])
    state.add(generate("a", 4))
    index.hold("a")
    go(state, limits, None, index)
    index.add("b", "", [1, 2, 3, 9, 9])
    index.add("c", "x", [1, 2, 3, 9, 9])
    index.add("d", "", [1, 2, 3, 4])
    state.add(generate("b", 5))
    state.add(generate("c", 5, blend="x"))
    state.add(generate("d", 4))
    step = go(state, limits, None, index)
    assert step.shares == (Share("b", "a", 3), Share("d", "a", 3))
    assert step.kv == (KvOp(1, 0, 3), KvOp(3, 0, 3))
    rows = {row.request: row for nano in step.nano for row in nano.rows}
    assert rows["b"] == Row("b", 1, 3, 2, 1)
    assert rows["c"] == Row("c", 2, 0, 5, 1)
    assert rows["d"] == Row("d", 3, 3, 1, 1)  # the last token is computed for its logits
    assert state.shared_tokens == 6
    assert state.cells.used == 4 + 1 + 2 + 5 + 1


def test_prompts_that_are_admitted_together_share_once_the_first_is_computed() -> None:
    limits = StepLimits(max_tokens=4, max_seqs=4, kv_capacity=100)
    state, index = State(), TokenIndex()
    for name in "ab":
        index.add(name, "", [1, 2, 3, 4])
        state.add(generate(name, 4))
        index.hold(name)
    go(state, limits, None, index)
    assert go(state, limits, None, index).shares == (Share("b", "a", 3),)


def test_a_finished_request_leaves_its_prefix_until_room_is_needed() -> None:
    limits = StepLimits(max_tokens=32, max_seqs=2, kv_capacity=20, max_idle_prefixes=1)
    state, index = State(), TokenIndex()
    index.add("a", "", [1, 2, 3, 4])
    state.add(generate("a", 4, 2))
    index.hold("a")
    go(state, limits, None, index)
    go(state, limits, None, index)
    assert not state.running
    assert state.idle[0].tokens == 5
    index.hold("a", [1, 2, 3, 4, 5])
    index.add("turn", "", [1, 2, 3, 4, 5, 6, 7])
    state.add(generate("turn", 7, 1))
    step = go(state, limits, None, index)
    assert step.shares == (Share("turn", "a", 5),)
    assert (state.cells.used, state.shared_tokens) == (7, 5)
    state.add(generate("big", 18, 2))
    step = go(state, limits, None, index)
    assert [prefix.id for prefix in step.evicted] == ["a", "turn"]
    assert state.cells.used == 18


def test_the_only_sequence_left_is_gone_on_in() -> None:
    limits = StepLimits(max_tokens=32, max_seqs=1, kv_capacity=20, max_idle_prefixes=1)
    state, index = State(), TokenIndex()
    index.add("a", "", [1, 2, 3, 4])
    state.add(generate("a", 4, 1))
    index.hold("a")
    go(state, limits, None, index)
    index.add("b", "", [1, 2, 9])
    state.add(generate("b", 3, 1))
    step = go(state, limits, None, index)
    assert (step.kv, step.shares) == ((KvOp(0, 0, 2),), (Share("b", "a", 2),))
    assert state.cells.used == 3


@pytest.mark.parametrize(
    ("limit", "prompt", "shares"),
    [
        (0, [1, 2, 3, 4, 5, 6], 5),  # all that the sequence holds
        (0, [1, 2, 3, 4, 9, 9], 0),  # a part of it
        (4, [1, 2, 3, 4, 9, 9], 0),
        (5, [1, 2, 3, 4, 9, 9], 4),
    ],
)
def test_a_memory_that_cannot_be_cut_is_shared_whole(limit: int, prompt: list[int], shares: int) -> None:
    limits = StepLimits(max_tokens=32, max_seqs=2, kv_capacity=40, max_idle_prefixes=1, cut_limit=limit)
    state, index = State(), TokenIndex()
    index.add("a", "", [1, 2, 3, 4])
    state.add(generate("a", 4, 2))
    index.hold("a")
    go(state, limits, None, index)
    go(state, limits, None, index)
    index.hold("a", [1, 2, 3, 4, 5])
    index.add("b", "", prompt)
    state.add(generate("b", 6))
    assert [share.tokens for share in go(state, limits, None, index).shares] == ([shares] if shares else [])


def test_a_scored_prompt_is_left_to_others_only_where_its_branches_can_be_cut_off() -> None:
    for limit in (None, 0):
        limits = StepLimits(max_tokens=32, max_seqs=2, kv_capacity=40, max_idle_prefixes=1, cut_limit=limit)
        state = State()
        state.add(Request(id="a", kind=Kind.SCORE, prompt=4, branches=(2,)))
        go(state, limits)
        go(state, limits)
        assert not state.running
        step = go(state, limits)
        assert step.kv == ((KvOp(0, 0, 4),) if limit is None else (KvOp(0, 0, 0),))
        assert len(step.evicted) == (limit == 0)


def test_a_name_that_is_used_again_says_nothing_about_the_old_prefix() -> None:
    limits = StepLimits(max_tokens=32, max_seqs=2, kv_capacity=20, max_idle_prefixes=1)
    state, index = State(), TokenIndex()
    for _ in range(2):
        index.add("a", "", [1, 2, 3, 4])
        state.add(generate("a", 4, 1))
        index.hold("a")
        assert not go(state, limits, None, index).shares


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.integers(0, 5)), max_size=30))
@settings(max_examples=150, deadline=None)
def test_cells_are_counted_as_a_cache_that_holds_them_does(ops: list[tuple[int, int, int, int]]) -> None:
    cells, cache = Cells(), SimulatedCache(4)
    for number, (seq, source, keep, tokens) in enumerate(ops):
        keep = min(keep, cells.length(source))
        for holder in (cells, cache):
            holder.apply(KvOp(seq, source, keep))
        cells.grow(seq, tokens)
        if tokens:
            cache.compute(Row(str(number), seq, keep, tokens, 0), shared=keep)
        assert cells.used == cache.used
        assert [cells.length(seq) for seq in range(4)] == [len(cache.cells(seq)) for seq in range(4)]


@given(
    st.lists(st.tuples(st.sampled_from("xy"), st.lists(st.integers(0, 1), min_size=1, max_size=8)), max_size=12),
    st.lists(st.integers(0, 11), max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_the_index_finds_what_comparing_all_finds(held: list[tuple[str, list[int]]], gone: list[int]) -> None:
    index = TokenIndex()
    for number, (blend, ids) in enumerate(held):
        index.add(str(number), blend, ids)
        index.hold(str(number))
    for number in gone:
        index.forget(str(number))
    left = {str(n): pair for n, pair in enumerate(held) if n not in gone}
    assert len(index) == len(left)
    ask = [0, 1, 0, 1, 1, 0]
    index.add("ask", "x", ask)
    found = list(index.match("ask"))
    expected = {}
    for name, (blend, ids) in left.items():
        common = 0
        while common < min(len(ids), len(ask)) and ids[common] == ask[common]:
            common += 1
        if blend == "x" and common:
            expected[name] = common
    assert dict(found) == expected
    assert [common for _, common in found] == sorted(expected.values(), reverse=True)
