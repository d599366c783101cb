"""Tokens that a request left no choice about: computed with the one before them, as far as there is room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.server.scheduler import Kind, LinearCost, Request, State, StepLimits, StepOutcome, commit, plan

COST = LinearCost()


def state_of(*requests: tuple[int, int]) -> State:
    state = State()
    for i, (prompt, most) in enumerate(requests):
        state.add(Request(id=str(i), kind=Kind.GENERATE, prompt=prompt, max_tokens=most))
    return state


def test_forced_tokens_are_one_row_with_the_token_before_them() -> None:
    limits = StepLimits(max_tokens=32, max_seqs=4, kv_capacity=256)
    state = state_of((5, 20), (5, 20))
    commit(state, plan(state, limits, COST), StepOutcome(forced={"0": 6}))
    step = plan(state, limits, COST)
    rows = {row.request: row for nano in step.nano for row in nano.rows}
    assert (rows["0"].start, rows["0"].tokens, rows["0"].logits) == (5, 7, 1)
    assert (rows["1"].start, rows["1"].tokens, rows["1"].logits) == (5, 1, 1)
    commit(state, step, StepOutcome())
    assert (state.get("0").generated, state.get("0").computed) == (8, 12)


@pytest.mark.parametrize("capacity", [20, 40])
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), st.data())
def test_every_token_is_computed_once_and_everybody_ends(
    capacity: int, sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    limits = StepLimits(max_tokens=6, max_seqs=4, kv_capacity=capacity, spill=True)
    state = state_of(*sizes)
    computed = dict.fromkeys(map(str, range(len(sizes))), 0)
    for _ in range(200):
        if not len(state):
            break
        step = plan(state, limits, COST)
        rows = [row for nano in step.nano for row in nano.rows]
        assert sum(row.tokens for row in rows) <= limits.max_tokens
        forced: dict[str, int] = {}
        for row in rows:
            assert row.start == computed[row.request]
            computed[row.request] += row.tokens
            request = state.get(row.request)
            left = request.max_tokens - request.generated - 1
            if row.logits and left > 0 and (count := data.draw(st.integers(0, left))):
                forced[row.request] = count
        commit(state, step, StepOutcome(forced=forced))
        assert state.cells.used <= capacity
    assert not len(state)
    assert all(computed[str(i)] >= prompt for i, (prompt, _) in enumerate(sizes))
