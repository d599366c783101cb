"""How long steps may get while answers are being written: held prompts, saved-up long steps, and their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.server.scheduler import Kind, LinearCost, Request, State, StepLimits, StepOutcome, commit, plan
from crayon.server.scheduler.token_budget import MOST_CREDIT

if TYPE_CHECKING:
    from crayon.server.steps.step_plan import StepPlan

COST = LinearCost(0.01, 0.001)
BOUND = 0.05  # 40 tokens of COST


def generate(name: str, prompt: int, answer: int, arrival: float = 0.0, blend: str = "") -> Request:
    return Request(id=name, kind=Kind.GENERATE, prompt=prompt, max_tokens=answer, arrival=arrival, blend=blend)


def make_limits(*, share: float = 0.1, first: float | None = None, batch: int = 256) -> StepLimits:
    return StepLimits(
        max_tokens=batch,
        max_seqs=8,
        kv_capacity=10_000,
        step_seconds=BOUND,
        late_share=share,
        first_seconds=first,
        min_tokens=1,
    )


def go(state: State, limits: StepLimits) -> StepPlan:
    step = plan(state, limits, COST)
    commit(state, step, StepOutcome())
    state.now += step.seconds
    return step


def talking(limits: StepLimits, credit: float = 0.0, answer: int = 500) -> State:
    """Return a state in which one answer is being written."""
    state = State()
    state.add(generate("talker", 1, answer))
    go(state, limits)
    state.credit = credit
    return state


def test_a_prompt_is_held_until_a_long_step_is_due_and_then_read_whole_with_others() -> None:
    limits = make_limits()
    state = talking(limits)
    state.add(generate("a", 100, 4))
    state.add(generate("b", 90, 4))
    sizes = [go(state, limits).tokens for _ in range(12)]
    # 10 steps of the answer alone earn one long one.
    assert sizes == [1] * 10 + [191, 3]


def test_a_prompt_that_fits_beside_the_answers_is_not_held() -> None:
    limits = make_limits()
    state = talking(limits)
    state.add(generate("a", 39, 4))
    assert go(state, limits).tokens == 40


def test_a_prompt_that_does_not_fit_the_long_step_whole_waits_for_the_next() -> None:
    limits = make_limits()
    state = talking(limits, credit=2.0)
    state.add(generate("a", 200, 50))
    state.add(generate("b", 100, 50))
    state.add(generate("c", 20, 50))
    assert go(state, limits).tokens == 1 + 200
    assert go(state, limits).tokens == 2 + 100 + 20


def test_a_prompt_too_long_for_any_step_is_read_in_pieces_within_the_bound() -> None:
    limits = make_limits()
    state = talking(limits, credit=2.0)
    state.add(generate("long", 2000, 4))
    sizes = [go(state, limits).tokens for _ in range(40)]
    assert sizes[0] == 40
    # Its later tokens attend to more, and so take longer.
    assert sizes == sorted(sizes, reverse=True)
    read = state.get("long").computed
    assert sizes[-1] == 1 + int(39 / COST.stretch(read - (sizes[-1] - 1)))


def test_the_last_of_a_long_prompt_is_read_in_pieces_too() -> None:
    limits = make_limits(first=0.5)
    state = talking(limits, credit=2.0, answer=4000)
    state.add(generate("long", 2000, 4))
    while state.get("long").computed < 2000:
        read = state.get("long").computed
        assert go(state, limits).tokens <= 1 + max(4, 39 / COST.stretch(read))


def test_who_would_be_late_for_its_first_token_is_read_at_once() -> None:
    limits = make_limits(share=0.001, first=0.5)
    state = talking(limits)
    state.add(generate("a", 100, 4, arrival=state.now))
    arrival, tokens = state.now, 1
    while tokens == 1:
        begun = state.now
        tokens = go(state, limits).tokens
    assert tokens == 101
    # 0.11 s before the 0.5 s are over, as long as the step itself takes, or one step of the answer later.
    assert 0 <= begun - arrival - (0.5 - COST.seconds(101)) <= COST.seconds(1)


def test_nobody_is_held_where_nobody_writes() -> None:
    limits = make_limits()
    state = State(credit=0.0)
    state.add(generate("a", 300, 4))
    assert go(state, limits).tokens == 256


@given(
    st.floats(0.02, 0.5),
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 300), st.integers(1, 40), st.sampled_from("xy")), max_size=20
    ),
)
@settings(max_examples=60, deadline=None)
def test_long_steps_are_as_rare_as_they_should_be_and_nobody_starves(
    share: float, work: list[tuple[int, int, int, str]]
) -> None:
    limits = make_limits(share=share)
    state = State()
    coming = sorted((at, number, prompt, answer, blend) for number, (at, prompt, answer, blend) in enumerate(work))
    watched = late = steps = 0
    while coming or len(state):
        while coming and (coming[0][0] <= steps or not len(state)):
            _, number, prompt, answer, blend = coming.pop(0)
            state.add(generate(str(number), prompt, answer, state.now, blend))
        writing = any(request.generated for request in state.running.values())
        seconds = go(state, limits).seconds
        steps += 1
        if writing:
            watched += 1
            late += seconds > BOUND + 1e-9
        # Each token of work is computed in a step, or held back by at most 1 / share steps that compute others'.
        assert steps <= 20 + sum(prompt + answer for _, prompt, answer, _ in work) * (2 + 1 / share)
    assert late <= MOST_CREDIT + share * watched + 1e-9
