"""Batch sizes, finishing times, shares of lost time, and profiles: small cases by hand, the rest by property."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Job, SimulatedEngine

from crayon.errors import InvalidRequestError
from crayon.server.cost.breakdown import TimeSpent, spent
from crayon.server.cost.profile import ProfileStep, expected_errors, profile_for
from crayon.server.cost.sizing import Finish, Headroom, Mix, TokenWork, batch_for, finish_estimate
from crayon.server.cost.step_cost import StepCost, StepShape
from crayon.server.scheduler import Kind, LinearCost, Request, StepLimits

COST = StepCost(base=0.01, per_token=0.002, weights=0.016, per_context=1e-6, per_output=0.001, per_switch=0.005)
READING = Mix(StepShape(0), 150)  # a token costs 2 ms, and 0.15 ms for what it attends


@pytest.mark.parametrize(
    ("target", "engine", "tokens"), [(9.0, 512, 512), (0.1, 512, 41), (0.1, 16, 16), (0.02, 512, 8), (0.02, 4, 4)]
)
def test_the_target_decides_within_the_engine_and_the_ridge(target: float, engine: int, tokens: int) -> None:
    assert batch_for(COST, target, READING, engine) == tokens


def test_a_batch_within_the_target_takes_no_longer() -> None:
    tokens = batch_for(COST, 0.1, READING, 512)
    assert COST.seconds(READING.resized(tokens)) <= 0.1 < COST.seconds(READING.resized(tokens + 1))


def test_an_endless_ridge_is_the_engines_most() -> None:
    assert batch_for(StepCost(weights=1), 0.5, READING, 64) == 64


# -- when a request is done


def test_a_lone_request_by_hand() -> None:
    cost = StepCost(base=1.0, per_context=0.5)
    # Two steps read 4 and 2 tokens (10 and 11 positions), then two decode (7 and 8).
    finish = finish_estimate(cost, TokenWork(6, 3), [], [], Headroom(batch=4, max_seqs=1))
    assert finish == Finish(2 + 10.5, 4 + 18.0, 4)


def test_blends_pay_for_their_calls() -> None:
    cost = StepCost(base=1.0, per_switch=0.25)
    running = [TokenWork(0, 5, 10)]
    assert finish_estimate(cost, TokenWork(2, 2), running, [], Headroom(batch=8, max_seqs=4, blends=2)).last == 5.0
    assert finish_estimate(cost, TokenWork(2, 2), running, [], Headroom(batch=8, max_seqs=4)).last == 2.0


def test_what_never_fits_never_ends() -> None:
    headroom = Headroom(batch=4, max_seqs=2, kv_capacity=10)
    assert finish_estimate(COST, TokenWork(8, 3), [], [], headroom).last == math.inf


def test_nothing_to_write_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="answer"):
        finish_estimate(COST, TokenWork(3, 1), [TokenWork(0, 0)], [], Headroom(batch=1, max_seqs=1))
    with pytest.raises(InvalidRequestError, match="blends"):
        Headroom(batch=1, max_seqs=1, blends=0)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(0, 20),
    st.integers(0, 200),
    st.booleans(),
)
def test_the_estimate_is_what_the_scheduler_does(
    lengths: list[tuple[int, int]], seqs: int, more: int, spare: int, long: bool
) -> None:
    """Where prompts are alike: all fit a step, or none does. Else a client's short ones overtake its long ones."""
    batch = seqs + more
    lengths = [(batch + prompt if long else 1 + (prompt - 1) % batch, answer) for prompt, answer in lengths]
    capacity = max(map(sum, lengths)) + spare
    jobs = [
        Job(request=Request(id=str(i), kind=Kind.GENERATE, prompt=prompt, max_tokens=answer))
        for i, (prompt, answer) in enumerate(lengths)
    ]
    engine = SimulatedEngine(StepLimits(max_tokens=batch, max_seqs=seqs, kv_capacity=capacity), LinearCost(0.01, 0.002))
    report = engine.run(jobs)
    work = [TokenWork(prompt, answer) for prompt, answer in lengths]
    headroom = Headroom(batch=batch, max_seqs=seqs, kv_capacity=capacity)
    finish = finish_estimate(StepCost(base=0.01, per_token=0.002), work[-1], [], work[:-1], headroom)
    last = report.finished[jobs[-1].request.id]
    assert finish.steps == last + 1
    assert finish.last == pytest.approx(report.steps[last].end)
    assert finish.first <= finish.last


# -- where the time went


def test_what_a_call_went_for_by_hand() -> None:
    cost = StepCost(base=1.0, per_token=0.25, weights=1.0, per_context=0.125, per_output=0.5, per_switch=2.0)
    # A full call of 8 takes 1 + 2 s: 0.375 s a token. One of 2 takes 1 + 1 s, of which 0.75 s are useful.
    assert spent(StepShape(8), cost, 8) == TimeSpent(3.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert spent(StepShape(2, 4, 1, 1), cost, 8) == TimeSpent(0.75, 0.75, 0.5, 0.5, 0.5, 2.0)


term, small = st.floats(0, 0.1), st.floats(0, 1e-3)
any_cost = st.builds(
    StepCost, base=term, per_token=term, weights=term, per_context=small, per_output=term, per_switch=term
)


@settings(deadline=None)
@given(
    st.builds(StepShape, st.integers(1, 600), st.integers(0, 10**5), st.integers(0, 64), st.integers(0, 4)),
    any_cost,
    st.integers(1, 600),
)
def test_the_parts_of_a_call_are_its_time(shape: StepShape, cost: StepCost, more: int) -> None:
    parts = spent(shape, cost, shape.tokens + more)
    assert min(parts) >= 0
    assert math.fsum(parts) == pytest.approx(cost.seconds(shape), abs=1e-9)


# -- what to time

CAPS = StepLimits(max_tokens=256, max_seqs=16, kv_capacity=4096)


def test_a_recipe_says_what_to_run() -> None:
    recipe = ProfileStep(2, 3, 10, 1, switch=True)
    assert [(row.seq, row.start, row.tokens, row.logits) for row in recipe.rows()] == [(0, 10, 3, 1), (1, 10, 3, 1)]
    assert recipe.shape == StepShape(6, 2 * (11 + 12 + 13), 2, 1)


def test_half_a_minute_shows_every_term() -> None:
    profile = profile_for(CAPS, COST, 30.0, 2048)
    assert profile.seconds <= 30
    assert max(profile.errors.values()) < 0.15
    shapes = [recipe.shape for recipe in profile.recipes]
    assert {2**i for i in range(9)} <= {shape.tokens for shape in shapes}
    assert len({recipe.depth for recipe in profile.recipes if recipe.tokens > 1}) == 3
    assert [recipe.depth for recipe in profile.recipes] == sorted(recipe.depth for recipe in profile.recipes)


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 20),
    st.integers(1, 5000),
    st.floats(0.5, 300),
    st.integers(0, 2**32),
)
def test_a_profile_keeps_to_limits_and_budget(tokens: int, seqs: int, kv: int, budget: float, seed: int) -> None:
    limits = StepLimits(max_tokens=max(tokens, seqs), max_seqs=seqs, kv_capacity=kv)
    factor = random.Random(seed).uniform(0.1, 2)
    profile = profile_for(limits, COST.scaled(factor), budget)
    assert profile.seconds <= budget * (1 + 1e-9)
    for recipe in profile.recipes:
        assert recipe.shape.tokens <= limits.max_tokens
        assert recipe.shape.outputs <= limits.outputs
        assert recipe.sequences <= seqs
        assert recipe.sequences * (recipe.depth + recipe.tokens) <= kv
        assert 3 <= recipe.repeats <= 25
        assert 0 <= recipe.logits <= recipe.tokens


def test_a_term_that_no_call_shows_is_said_to_be_unknown() -> None:
    calls = [(StepShape(n, 0, 1), 5) for n in (1, 2, 4, 32, 64, 128)]
    errors = expected_errors(COST, calls)
    unknown = {name for name, error in errors.items() if error == math.inf}
    assert unknown == {"base", "per_context", "per_output", "per_switch"}  # one output each: part of the base
    assert errors["per_token"] < 0.2


def test_a_budget_that_holds_no_call_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="budget_s"):
        profile_for(CAPS, COST, 0.01)
