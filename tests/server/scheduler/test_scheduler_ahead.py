"""Planning the next step while one runs: what comes of it is what would have been planned afterwards."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from crayon.server.scheduler import (
    Kind,
    LinearCost,
    Request,
    State,
    StepLimits,
    StepOutcome,
    TokenIndex,
    commit,
    plan,
    plan_after,
)

CAPS = StepLimits(max_tokens=24, max_seqs=6, kv_capacity=160, max_outputs=12, spill=True, max_idle_prefixes=2)


class Halves:
    """Predicts half of what may come."""

    def remaining(self, generated: int, most: int, *, group: str = "") -> int:
        return max(1, most // 2)


REQUESTS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["", "b"]), st.sampled_from("xy")),
    min_size=1,
    max_size=12,
)


def state_of(items: list[tuple[int, int, str, str]], index: TokenIndex) -> State:
    state = State()
    for i, (prompt, most, blend, client) in enumerate(items):
        state.add(Request(id=str(i), kind=Kind.GENERATE, prompt=prompt, max_tokens=most, blend=blend, client=client))
        index.add(str(i), blend, [7] * prompt)
    return state


@given(REQUESTS, st.data())
def test_a_plan_made_ahead_is_the_plan_made_afterwards(
    items: list[tuple[int, int, str, str]], data: st.DataObject
) -> None:
    index = TokenIndex()
    state, cost, lengths = state_of(items, index), LinearCost(), Halves()
    for _ in range(data.draw(st.integers(1, 25))):
        step = plan(state, CAPS, cost, lengths, index)
        before = copy.deepcopy(state)
        ahead = plan_after(state, step, CAPS, cost, lengths, index)
        assert state == before
        commit(state, step, StepOutcome())
        assert plan(state, CAPS, cost, lengths, index) == ahead
        if not len(state):
            break


def test_an_answer_that_ends_makes_another_plan() -> None:
    index = TokenIndex()
    state, cost = state_of([(4, 9, "", "x"), (4, 9, "", "x")], index), LinearCost()
    step = plan(state, CAPS, cost)
    ahead = plan_after(state, step, CAPS, cost)
    commit(state, step, StepOutcome(ended=frozenset({"0"})))
    assert {row.request for nano in ahead.nano for row in nano.rows} == {"0", "1"}
    assert {row.request for nano in plan(state, CAPS, cost).nano for row in nano.rows} == {"1"}
