"""The cost that a running engine learns, the deadlines it refuses by it, and a step in parts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.errors import ConfigError
from crayon.server.cost.fit import fit
from crayon.server.cost.model import DecodeLoad, LinearCost
from crayon.server.cost.online import LiveCost
from crayon.server.cost.step_cost import StepCost, StepShape
from crayon.server.forecast.rules import LengthRule
from crayon.server.scheduler import Kind, Lengths, NanoBatch, Request, Resource, Row, State, StepLimits
from crayon.server.scheduler.deadlines import late_alone, late_in_queue, margin
from crayon.server.scheduler.nano_batches import in_parts

COST = StepCost(base=0.004, per_token=0.0005, weights=0.016, per_context=1e-6, per_output=0.0002, per_switch=0.01)
CAPS = StepLimits(max_tokens=256, max_seqs=4, kv_capacity=4096, spill=True)


def calls(number: int, seed: int = 1) -> list[StepShape]:
    draw = random.Random(seed)
    made = []
    for _ in range(number):
        decodes, read = draw.randint(1, 32), draw.choice([0, 0, draw.randint(1, 400)])
        context = decodes * draw.randint(100, 900) + read * (read + 1) // 2
        made.append(StepShape(decodes + read, context, decodes + (read > 0), int(draw.random() < 0.2)))
    return made


def run(live: LiveCost, shapes: list[StepShape], slow: float = 1.0, seed: int = 2) -> None:
    draw = random.Random(seed)
    for shape in shapes:
        live.observed(shape, slow * COST.seconds(shape) * draw.gauss(1, 0.03))
        samples = live.due()
        if samples:
            live.fitted(fit(samples, folds=0))


def test_a_line_is_believed_until_there_is_enough_and_then_all_terms() -> None:
    live = LiveCost()
    run(live, calls(63))
    assert live.cost is None
    assert live.tokens_within(0.1) > 0
    assert not live.confident
    run(live, calls(400, seed=5))
    assert live.fits >= 2
    assert live.error is not None
    assert live.line_error is not None
    assert live.error < 0.06 < 2 * live.error + 0.05 < live.line_error
    assert live.confident


def test_measured_terms_are_believed_at_once_and_corrected_while_serving() -> None:
    wrong = StepCost(**{**COST.terms(), "per_context": 20 * COST.per_context})
    live = LiveCost(wrong)
    assert live.cost == wrong
    run(live, calls(700))
    assert live.cost is not None
    assert live.cost.per_context < 5 * COST.per_context
    assert live.error is not None
    assert live.error < 0.06


def test_calls_of_one_size_are_no_reason_to_believe_in_a_slope() -> None:
    live = LiveCost()
    run(live, [StepShape(8, 800, 8)] * 500)
    assert live.cost is None


def test_a_batch_leaves_room_for_what_the_answers_attend() -> None:
    live = LiveCost(COST)
    few = live.tokens_within(0.1, 1, DecodeLoad(16, 16 * 50, 800))
    many = live.tokens_within(0.1, 1, DecodeLoad(16, 16 * 2000, 32_000))
    assert 64 < many < few
    assert live.tokens_within(1e-9) == COST.ridge  # a smaller one would take as long
    assert live.tokens_within(0.1, 3, DecodeLoad(16, 800, 800)) < few  # the weights are read three times
    shared = LiveCost(COST, shared_cells=True)
    assert shared.tokens_within(0.1, 1, DecodeLoad(16, 16 * 50, 800)) < few  # each token looks at the cells of all


def test_terms_learnt_while_serving_are_not_trusted_far_beyond_what_was_seen() -> None:
    live = LiveCost()
    flat = [StepShape(tokens, 0, tokens) for tokens in (1, 2, 4, 8)] * 40
    run(live, flat)  # all below the ridge, so that a token seems to cost nothing
    assert live.cost is not None
    assert live.tokens_within(10.0) <= 64


def test_a_busy_machine_is_followed_and_so_is_its_end() -> None:
    live = LiveCost(COST)
    run(live, calls(100))
    run(live, calls(9, seed=8), slow=5.0)
    assert live.factor == pytest.approx(5, rel=0.1)
    assert live.now is not None
    assert live.now.per_token == pytest.approx(5 * COST.per_token, rel=0.1)
    run(live, calls(9, seed=9))
    assert live.factor == pytest.approx(1, rel=0.1)


def test_steps_that_read_beside_answers_are_kept_within_the_bound_even_if_they_alone_take_longer() -> None:
    live, draw, load = LiveCost(COST), random.Random(3), DecodeLoad(8, 8 * 200, 2000)
    longest = 0.0
    for turn in range(600):  # calls of one kind only are as predicted, mixed ones take half as long again
        decodes, read = draw.randint(1, 32), draw.randint(20, 400)
        for shape, times in (
            (StepShape(decodes, decodes * draw.randint(100, 900), decodes), 1.0),
            (StepShape(read, read * (read + 1) // 2, 1), 1.0),
            (mixed := StepShape(live.tokens_within(0.06, 1, load), 8 * 200, 8), 1.5),
        ):
            live.observed(shape, times * COST.seconds(shape))
        if turn > 500:
            longest = max(longest, 1.5 * COST.seconds(mixed))
    assert longest < 1.15 * 0.06
    assert mixed.tokens > 16


def test_times_that_mean_nothing_teach_nothing() -> None:
    live = LiveCost(COST)
    live.observed(StepShape(3), 0.0)
    live.observed(StepShape(0), 1.0)
    assert (live.factor, live.error, live.due()) == (1.0, None, None)


def test_terms_that_say_nothing_are_learnt_anew() -> None:
    live = LiveCost(StepCost())
    run(live, calls(100))
    assert live.cost is not None


# -- deadlines


def waiting(name: str, prompt: int, answer: int, deadline: float | None = None) -> Request:
    return Request(id=name, kind=Kind.GENERATE, prompt=prompt, max_tokens=answer, deadline=deadline)


def learnt(length: int, rule: LengthRule = LengthRule.WORST) -> Lengths:
    lengths = Lengths(rule)
    for _ in range(40):
        lengths.observe(length, ended=True)
    return lengths


def test_a_prompt_that_cannot_be_read_in_time_is_late_and_an_unknown_answer_is_no_reason() -> None:
    cost = StepCost(base=0.1, per_token=0.01)
    # Four full steps of 2.66 s.
    late = late_alone(waiting("a", 1024, 4000, 5.0), 0.0, CAPS, cost, None, 1.5)
    assert late is not None
    assert (late.ahead, round(late.needs, 1), late.left) == (0, 10.6, 5.0)
    assert "would take about 10.6 s, and its deadline is in 5.0 s" in str(late)
    assert late_alone(waiting("a", 1024, 4000, 8.0), 0.0, CAPS, cost, None, 1.5) is None  # within the margin
    assert late_alone(waiting("a", 8, 4000, 5.0), 0.0, CAPS, cost, None, 1.5) is None
    assert late_alone(waiting("a", 8, 4000, 5.0), 0.0, CAPS, cost, learnt(1000), 1.5) is not None
    assert late_alone(waiting("a", 1024, 9), 0.0, CAPS, cost, None, 1.5) is None  # no deadline


def test_who_waits_behind_others_is_late_for_their_time_too() -> None:
    cost, state = StepCost(base=0.1, per_token=0.01), State()
    for number in range(40):
        state.add(waiting(str(number), 256, 50))
    last = waiting("last", 256, 50, 30.0)
    state.add(last)
    assert late_alone(last, 0.0, CAPS, cost, None, 1.5) is None
    late = late_in_queue(last, state, CAPS, cost, None, 1.5)
    assert late is not None
    assert late.ahead == 40
    first = state.get("0")
    first.deadline = 30.0
    assert late_in_queue(first, state, CAPS, cost, None, 1.5) is None


def test_the_margin_grows_with_the_error() -> None:
    assert 1 < margin(0.0) < margin(0.2)


def test_an_estimate_looks_at_the_front_of_ten_thousand() -> None:
    state = State()
    for number in range(10_000):
        state.add(waiting(str(number), 256, 50, 1.0))
    late = late_in_queue(state.get("9999"), state, CAPS, COST, None, 1.5)
    assert late is not None
    assert late.ahead <= 64


# -- parts

ROWS = st.lists(st.tuples(st.booleans(), st.integers(1, 90)), min_size=1, max_size=12)


@settings(deadline=None)
@given(ROWS, st.integers(1, 5))
def test_parts_are_the_call_and_decodes_come_first(rows: list[tuple[bool, int]], parts: int) -> None:
    made = [Row(str(i), i, 7, 1 if decode else tokens, 1) for i, (decode, tokens) in enumerate(rows)]
    kinds = {Resource.DECODE: [row for row in made if row.tokens == 1], Resource.PREFILL: []}
    kinds[Resource.PREFILL] = [row for row in made if row.tokens > 1]
    call = [NanoBatch("b", resource, tuple(some)) for resource, some in kinds.items() if some]
    found = in_parts(call, parts)
    assert 1 <= len(found) <= parts
    if parts > 1:
        assert all(len({nano.resource for nano in part}) == 1 for part in found)
    pieces: dict[str, list[Row]] = {}
    for part in found:
        for nano in part:
            for row in nano.rows:
                pieces.setdefault(row.request, []).append(row)
    for row in made:
        mine = pieces[row.request]
        assert [piece.start for piece in mine] == [7 + sum(x.tokens for x in mine[:i]) for i in range(len(mine))]
        assert (sum(piece.tokens for piece in mine), sum(piece.logits for piece in mine)) == (row.tokens, 1)
        assert mine[-1].logits == 1


def test_encoding_stays_whole() -> None:
    call = [NanoBatch("", Resource.ENCODE, (Row("a", 0, 0, 100, 0, 0),))]
    assert in_parts(call, 4) == [tuple(call)]


def test_no_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="parts"):
        StepLimits(max_tokens=8, max_seqs=4, kv_capacity=64, parts=0)


def test_the_line_learns_as_before() -> None:
    assert LinearCost().tokens_within(1.0, 1, DecodeLoad(5, 5, 5)) == LinearCost().tokens_within(1.0)
