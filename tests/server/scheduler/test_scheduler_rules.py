"""Small cases of the scheduler, worked out by hand."""

from __future__ import annotations

import copy

import pytest

from crayon.errors import ConfigError, EngineError
from crayon.server.scheduler import (
    Admission,
    Drop,
    DropReason,
    Kind,
    KvOp,
    LinearCost,
    NanoBatch,
    Request,
    Resource,
    Row,
    State,
    StepLimits,
    StepOutcome,
    StepPlan,
    TokenIndex,
    commit,
    plan,
)

COST = LinearCost(0.01, 0.001)


def generate(name: str, prompt: int, max_tokens: int = 4, **more: object) -> Request:
    return Request(id=name, kind=Kind.GENERATE, prompt=prompt, max_tokens=max_tokens, **more)  # type: ignore[arg-type]  # keywords of one test each


def make_limits(**more: int) -> StepLimits:
    return StepLimits(**{"max_tokens": 8, "max_seqs": 4, "kv_capacity": 100, **more})


def state_of(*requests: Request) -> State:
    state = State()
    for request in requests:
        state.add(request)
    return state


def go(state: State, limits: StepLimits, *ended: str) -> StepPlan:
    step = plan(state, limits, COST)
    commit(state, step, StepOutcome(ended=frozenset(ended)))
    return step


def rows(step: StepPlan) -> list[Row]:
    return [row for nano in step.nano for row in nano.rows]


def test_prompts_fill_the_budget_and_only_the_last_is_cut() -> None:
    state = state_of(generate("a", 5), generate("b", 6), generate("c", 2))
    step = go(state, make_limits())
    assert step.admissions == (Admission("a", (0,), 9), Admission("b", (1,), 10), Admission("c", (2,), 6))
    assert step.nano == (NanoBatch("", Resource.PREFILL, (Row("a", 0, 0, 5, 1), Row("b", 1, 0, 3, 0))),)


def test_decodes_come_first_and_the_cut_prompt_leads_the_rest() -> None:
    state = state_of(generate("a", 5), generate("b", 6), generate("c", 9))
    go(state, make_limits())
    step = go(state, make_limits())
    assert step.nano == (
        NanoBatch("", Resource.DECODE, (Row("a", 0, 5, 1, 1),)),
        NanoBatch("", Resource.PREFILL, (Row("b", 1, 3, 3, 1), Row("c", 2, 0, 4, 0))),
    )
    assert step.calls() == [step.nano]
    assert step.tokens == 8
    assert step.seconds == pytest.approx(0.018)


def test_the_last_token_is_sampled_but_not_computed() -> None:
    state = state_of(generate("a", 3, max_tokens=2))
    assert rows(go(state, make_limits())) == [Row("a", 0, 0, 3, 1)]
    assert rows(go(state, make_limits())) == [Row("a", 0, 3, 1, 1)]
    assert len(state) == 0
    step = go(state, make_limits())
    assert (step.kv, step.nano) == ((KvOp(0, 0, 0),), ())


def test_an_ended_answer_frees_its_sequence_for_the_very_next_step() -> None:
    state = state_of(generate("a", 2), generate("b", 2))
    limits = make_limits(max_seqs=1)
    go(state, limits, "a")
    step = go(state, limits)
    assert step.kv == (KvOp(0, 0, 0),)
    assert rows(step) == [Row("b", 0, 0, 2, 1)]


def test_admission_reserves_the_worst_case_and_nobody_overtakes() -> None:
    state = state_of(generate("a", 50, 40), generate("big", 10, 20), generate("small", 1, 1))
    step = go(state, make_limits())
    assert [item.request for item in step.admissions] == ["a"]


def test_a_cancelled_request_makes_room_within_the_same_step() -> None:
    state = state_of(generate("a", 50, 40), generate("b", 50, 40))
    go(state, make_limits())
    assert state.cancel("a")
    step = go(state, make_limits())
    assert step.drops == (Drop("a", DropReason.CANCELLED),)
    assert step.admissions == (Admission("b", (0,), 90),)
    assert step.kv == (KvOp(0, 0, 0),)
    assert not state.cancel("a")


def test_waiting_and_running_requests_expire() -> None:
    state = state_of(generate("a", 20, deadline=1.0), generate("b", 80, 20, deadline=2.0))
    go(state, make_limits())
    state.now = 2.0
    step = plan(state, make_limits(), COST)
    assert [(drop.request, drop.reason) for drop in step.drops] == [
        ("a", DropReason.EXPIRED),
        ("b", DropReason.EXPIRED),
    ]
    assert step.nano == ()


def test_a_request_that_can_never_fit_does_not_hold_the_queue() -> None:
    huge = generate("huge", 90, 20)
    assert not huge.ever_fits(make_limits())
    step = go(state_of(huge, generate("a", 2)), make_limits())
    assert step.drops == (Drop("huge", DropReason.NEVER_FITS),)
    assert rows(step) == [Row("a", 0, 0, 2, 1)]


def test_priority_is_a_head_start_not_a_right() -> None:
    early = generate("early", 2, arrival=0.0)
    urgent = generate("urgent", 2, arrival=4.0, priority=1)
    late_urgent = generate("late urgent", 2, arrival=6.0, priority=1)
    step = go(state_of(early, late_urgent, urgent), make_limits(max_tokens=6))
    assert [item.request for item in step.admissions] == ["urgent", "early", "late urgent"]


def test_score_computes_the_prompt_once_and_branches_from_it() -> None:
    state = state_of(Request(id="s", kind=Kind.SCORE, prompt=3, branches=(2, 4, 1)))
    limits = make_limits(max_tokens=5)
    step = go(state, limits)
    assert step.admissions == (Admission("s", (0, 1), 3 + 4 + 2),)
    assert rows(step) == [Row("s", 0, 0, 3, 1)]
    step = go(state, limits)
    assert step.kv == (KvOp(0, 0, 3), KvOp(1, 0, 3))
    assert rows(step) == [Row("s", 0, 3, 2, 2, 0), Row("s", 1, 3, 3, 3, 1)]
    step = go(state, limits)
    assert step.kv == (KvOp(0, 0, 3),)
    assert rows(step) == [Row("s", 0, 3, 1, 1, 2), Row("s", 1, 6, 1, 1, 1)]
    assert len(state) == 0
    assert plan(state, limits, COST).kv == (KvOp(0, 0, 0), KvOp(1, 1, 0))


def test_score_of_single_tokens_needs_the_prompt_only() -> None:
    state = state_of(Request(id="s", kind=Kind.SCORE, prompt=3))
    go(state, make_limits())
    assert len(state) == 0


def test_score_rows_keep_to_the_room_for_logits() -> None:
    state = state_of(Request(id="s", kind=Kind.SCORE, prompt=1, branches=(6,)))
    limits = make_limits(max_outputs=4)
    go(state, limits)
    assert [row.logits for row in rows(go(state, limits))] == [4]
    assert [row.logits for row in rows(go(state, limits))] == [2]


def test_encoding_runs_alone_and_in_turn() -> None:
    state = state_of(generate("a", 2, 9), Request(id="e", kind=Kind.ENCODE, prompt=0, branches=(3, 5, 4)))
    kinds = [[(nano.resource, nano.tokens) for nano in go(state, make_limits()).nano] for _ in range(5)]
    assert kinds == [
        [(Resource.PREFILL, 2)],
        [(Resource.ENCODE, 8)],
        [(Resource.DECODE, 1)],
        [(Resource.ENCODE, 4)],
        [(Resource.DECODE, 1)],
    ]


def test_encoding_has_its_own_room_where_the_engine_says_so() -> None:
    encode = Request(id="e", kind=Kind.ENCODE, prompt=0, branches=(30,))
    assert not encode.ever_fits(make_limits(encode_capacity=20))
    step = go(state_of(generate("a", 50, 50), encode), make_limits(encode_capacity=30))
    assert [item.request for item in step.admissions] == ["a", "e"]


def test_blends_never_share_a_nano_batch_and_take_turns() -> None:
    state = state_of(*(generate(name, 2, 9, blend=name) for name in "xyz"))
    limits = make_limits(max_blends=2)
    seen = [[nano.blend for nano in go(state, limits).nano] for _ in range(4)]
    assert seen == [["x", "y"], ["z", "x"], ["y", "x"], ["z", "x"]]


def test_new_blends_do_not_push_an_old_one_aside() -> None:
    state = state_of(generate("old", 1, 50, blend="old"))
    limits = make_limits(max_blends=1)
    served = []
    for i in range(20):
        state.add(generate(f"new{i}", 1, 1, blend=f"new{i}"))
        served.append(go(state, limits).nano[0].blend)
    assert "old" in served[:5]
    assert served.count("old") >= 20 // limits.max_seqs


def test_a_step_is_shorter_while_somebody_watches() -> None:
    limits = StepLimits(max_tokens=500, max_seqs=4, kv_capacity=1000, step_seconds=0.11, min_tokens=4)
    state = state_of(generate("a", 300))
    assert go(state, limits).tokens == 300
    state.add(generate("b", 400))
    assert go(state, limits).tokens == 100


def test_the_floor_of_a_step_holds_on_a_slow_machine() -> None:
    limits = StepLimits(max_tokens=500, max_seqs=4, kv_capacity=1000, step_seconds=0.001, min_tokens=4)
    state = state_of(generate("a", 3))
    go(state, limits)
    state.add(generate("b", 400))
    assert go(state, limits).tokens == 4


def test_a_step_that_did_not_run_is_planned_again() -> None:
    state = state_of(generate("a", 3), generate("b", 2, blend="x"))
    step = plan(state, make_limits(), COST)
    commit(state, step, StepOutcome(ran=1))
    again = rows(plan(state, make_limits(), COST))
    assert set(again) == {Row("a", 0, 3, 1, 1), Row("b", 1, 0, 2, 1)}


def test_a_request_that_failed_in_its_last_step_leaves_nothing_to_others() -> None:
    state = state_of(generate("a", 5, 1))
    step = plan(state, make_limits(), COST)
    state.cancel("a")
    assert commit(state, step, StepOutcome(failed=frozenset({"a"}))).finished == ()
    assert not state.idle
    step = go(state, make_limits())
    assert [drop.request for drop in step.drops] == ["a"]
    assert (len(state), state.cells.used) == (0, 0)


def test_plan_changes_nothing_and_repeats_itself() -> None:
    state = state_of(generate("a", 5), Request(id="s", kind=Kind.SCORE, prompt=3, branches=(2, 4)))
    go(state, make_limits())
    before = copy.deepcopy(state)
    assert plan(state, make_limits(), COST) == plan(state, make_limits(), COST)
    assert state == before


def test_a_stale_plan_is_refused() -> None:
    state = state_of(generate("a", 5))
    step = plan(state, make_limits(), COST)
    commit(state, step, StepOutcome())
    with pytest.raises(EngineError, match="step 0"):
        commit(state, step, StepOutcome())


@pytest.mark.parametrize(
    "request_",
    [
        generate("a", 0),
        generate("a", 1, 0),
        Request(id="a", kind=Kind.SCORE, prompt=1, branches=(0,)),
        Request(id="a", kind=Kind.ENCODE, prompt=0),
        Request(id="a", kind=Kind.ENCODE, prompt=1, branches=(1,)),
    ],
)
def test_requests_without_work_are_refused(request_: Request) -> None:
    with pytest.raises(EngineError, match="request a"):
        State().add(request_)


def test_an_id_is_used_once_at_a_time() -> None:
    state = state_of(generate("a", 1, 1))
    with pytest.raises(EngineError, match="already"):
        state.add(generate("a", 1))
    go(state, make_limits())
    state.add(generate("a", 1))


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_tokens", 3), ("max_outputs", 3), ("kv_capacity", 0), ("max_slots", 0), ("step_seconds", 0.0)],
)
def test_caps_that_contradict_themselves_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        StepLimits(**{"max_tokens": 8, "max_seqs": 4, "kv_capacity": 100, key: value})  # type: ignore[arg-type]  # keywords of one test each


def test_the_line_is_learnt_from_steps() -> None:
    cost = LinearCost()
    for tokens in (1, 8, 64, 512, 3, 70):
        cost = cost.observed(tokens, 0.05 + 0.002 * tokens)
    assert cost.base == pytest.approx(0.05)
    assert cost.per_token == pytest.approx(0.002)
    assert cost.seconds(100, 2) == pytest.approx(0.3)
    assert cost.tokens_within(0.25) == pytest.approx(100, abs=1)
    assert cost.tokens_within(0.01) == 0


def test_one_step_size_scales_the_first_guess() -> None:
    cost = LinearCost(0.02, 0.005).observed(4, 0.4).observed(4, 0.4)
    assert cost.seconds(4) == pytest.approx(0.4)
    assert cost.base > 0
    assert cost.per_token > 0


def test_mixed_requests_share_a_call_whatever_their_blends_and_no_cache() -> None:
    ids = list(range(40))
    index = TokenIndex(1)
    state = State()
    limits = make_limits(max_tokens=80, max_seqs=5)
    shared = []
    for name, blend in (("a", "x"), ("b", "y"), ("c", "x")):
        request = generate(name, 40, blend=blend, mixed=True)
        state.add(request)
        index.add(name, blend, ids)
        step = plan(state, limits, COST, None, index)
        assert len(step.calls()) == 1
        assert {nano.blend for nano in step.nano} == {""}
        commit(state, step, StepOutcome())
        index.hold(name)
        shared += [(share.request, share.source) for share in step.shares]
    assert shared == [("c", "a")], "a beginning is that of one blend"
