"""Under load: constant steps, turns of blends, parts of a plan."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Job, SimulatedEngine

from crayon.errors import ConfigError
from crayon.server.scheduler import (
    Kind,
    LinearCost,
    NanoBatch,
    Request,
    Resource,
    Row,
    State,
    StepLimits,
    StepOutcome,
    StepPlan,
    commit,
    plan,
)
from crayon.server.scheduler.nano_batches import TILE, in_parts

COST = LinearCost(0.01, 0.001)


def generate(name: str, prompt: int, max_tokens: int = 4, blend: str = "") -> Request:
    return Request(id=name, kind=Kind.GENERATE, prompt=prompt, max_tokens=max_tokens, blend=blend)


@st.composite
def drawn_limits(draw: st.DrawFn) -> StepLimits:
    seqs = draw(st.integers(2, 8))
    return StepLimits(
        max_tokens=draw(st.integers(seqs, 48)),
        max_seqs=seqs,
        kv_capacity=draw(st.integers(100, 400)),
        max_blends=draw(st.integers(1, 3)),
        step_seconds=draw(st.none() | st.floats(0.012, 0.05)),
        min_tokens=draw(st.integers(1, 8)),
        tile=draw(st.sampled_from([1, 4, 8])),
        quantum=draw(st.sampled_from([0, 7, 30])),
    )


@given(drawn_limits(), st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20), st.sampled_from("xyz")), max_size=20))
@settings(max_examples=80, deadline=None)
def test_a_step_is_as_large_as_the_budget_while_its_groups_have_prompts_left(
    limits: StepLimits, work: list[tuple[int, int, str]]
) -> None:
    state = State()
    for number, (prompt, answer, blend) in enumerate(work):
        state.add(generate(str(number), prompt, answer, blend))
    while len(state):
        step = plan(state, limits, COST)
        everybody = {request.id: request for request in state}
        decoding = sum(request.generated > 0 for request in state.running.values())
        commit(state, step, StepOutcome())
        chosen = {nano.blend for nano in step.nano}
        if not any(item.blend in chosen and item.computed < item.prompt for item in state.running.values()):
            continue
        if limits.step_seconds is None or not decoding:
            assert step.tokens == limits.max_tokens
        else:
            groups = len({request.blend for request in everybody.values() if request.slots})
            within = COST.tokens_within(limits.step_seconds, min(groups, limits.max_blends))
            floor = min(limits.max_tokens, max(limits.min_tokens, decoding + 1))
            assert min(limits.max_tokens, max(within, floor)) - step.tokens < limits.tile


def turns(steps: list[StepPlan]) -> list[set[str]]:
    return [{nano.blend for nano in step.nano} for step in steps]


@given(
    st.integers(1, 3),
    st.sampled_from([0, 1, 5, 12]),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30), st.sampled_from("vwxyz")), min_size=1, max_size=12),
)
@settings(max_examples=100, deadline=None)
def test_a_blend_waits_for_one_turn_of_each_other(blends: int, quantum: int, work: list[tuple[int, int, str]]) -> None:
    limits = StepLimits(max_tokens=24, max_seqs=12, kv_capacity=1000, max_blends=blends, quantum=quantum)
    state = State()
    coming = sorted((at, number, answer, blend) for number, (at, answer, blend) in enumerate(work))
    waited: dict[str, int] = {}
    bound: dict[str, int] = {}
    while coming or len(state):
        while coming and (coming[0][0] <= state.step or not len(state)):
            _, number, answer, blend = coming.pop(0)
            state.add(generate(str(number), 1, answer, blend))
        step = plan(state, limits, COST)
        ran = {nano.blend for nano in step.nano}
        commit(state, step, StepOutcome())
        present = {request.blend for request in state.running.values()} | ran
        for blend in present - ran:
            bound.setdefault(blend, (len(present) - 1) * max(1, quantum))
            waited[blend] = waited.get(blend, 0) + 1
            assert waited[blend] <= bound[blend]
        for blend in ({*waited} - present) | ran:
            waited.pop(blend, None)
            bound.pop(blend, None)


def test_a_blend_with_work_left_goes_on_until_its_quantum_is_used() -> None:
    limits = StepLimits(max_tokens=8, max_seqs=8, kv_capacity=1000, max_blends=1, quantum=12)
    state = State()
    for number in range(4):
        state.add(generate(str(number), 1, 50, "xy"[number % 2]))
    steps = []
    for _ in range(40):
        steps.append(plan(state, limits, COST))
        commit(state, steps[-1], StepOutcome())
    switches = sum(a != b for a, b in pairwise(turns(steps)))
    assert switches <= sum(step.tokens for step in steps) / limits.quantum
    assert turns(steps)[:13] == [{"x"}] * 6 + [{"y"}] * 6 + [{"x"}]


def test_encoding_gets_its_turn_between_blends_that_go_on() -> None:
    limits = StepLimits(max_tokens=8, max_seqs=8, kv_capacity=1000, max_blends=2, quantum=5)
    work = [Job(request=generate(str(number), 1, 60, "xyz"[number % 3])) for number in range(6)]
    work.append(Job(request=Request(id="e", kind=Kind.ENCODE, prompt=0, branches=(20,))))
    report = SimulatedEngine(limits, COST).run(work)
    assert report.finished["e"] < 50


@given(
    drawn_limits(),
    st.lists(
        st.tuples(
            st.floats(0, 2),
            st.integers(1, 60),
            st.integers(1, 20),
            st.sampled_from("xyz"),
            st.sampled_from("aab"),
            st.integers(-1, 1),
        ),
        min_size=1,
        max_size=16,
    ),
)
@settings(max_examples=100, deadline=None)
def test_nobody_waits_longer_than_the_tokens_before_it_allow(
    limits: StepLimits, work: list[tuple[float, int, int, str, str, int]]
) -> None:
    jobs, tokens = [], {}
    for number, (arrival, prompt, answer, blend, client, priority) in enumerate(work):
        request = generate(str(number), prompt, answer, blend)
        request.arrival, request.client, request.priority = arrival, client, priority
        jobs.append(Job(request=request))
        tokens[request.id] = prompt + answer - 1
    report = SimulatedEngine(limits, COST).run(jobs)
    order = [admission.request for step in report.steps for admission in step.plan.admissions]
    for place, name in enumerate(order):
        arrived = report.arrived[name]
        ahead = sum(tokens[other] for other in order[: place + 1] if report.finished[other] >= arrived)
        assert report.finished[name] - arrived <= limits.max_seqs * max(1, limits.quantum) * ahead


@st.composite
def plans(draw: st.DrawFn) -> list[NanoBatch]:
    made = []
    for blend in draw(st.lists(st.sampled_from("xyz"), max_size=4, unique=True)):
        sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
        rows = [
            Row(f"{blend}{i}", i, draw(st.integers(0, 9)), size, draw(st.integers(0, size)))
            for i, size in enumerate(sizes)
        ]
        made.append(NanoBatch(blend, Resource.PREFILL, tuple(rows)))
    return made


def tokens_of(nano: list[NanoBatch]) -> list[tuple[object, ...]]:
    """Every token by itself: batch, request, sequence, position, whether its logits are wanted, branch."""
    return [
        (batch.blend, batch.resource, row.request, row.seq, row.start + i, i >= row.tokens - row.logits, row.branch)
        for batch in nano
        for row in batch.rows
        for i in range(row.tokens)
    ]


@given(plans(), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_parts_are_the_plan_cut_at_tiles_and_take_as_long(nano: list[NanoBatch], parts: int) -> None:
    made = in_parts(nano, parts)
    sizes = [sum(batch.tokens for batch in part) for part in made]
    assert len(made) <= parts
    assert tokens_of([batch for part in made for batch in part]) == tokens_of(nano)
    if parts > 1:
        assert all(part and all(batch.rows for batch in part) for part in made)
        assert all(size % TILE == 0 for size in sizes[:-1])
        assert max(sizes, default=0) <= sum(sizes) / parts + TILE


def test_numbers_under_one_are_refused() -> None:
    for key in ("tile", "quantum", "max_idle_prefixes"):
        with pytest.raises(ConfigError, match=key):
            StepLimits(**{"max_tokens": 8, "max_seqs": 4, "kv_capacity": 100, key: -1})  # type: ignore[arg-type]  # keywords of one test each
