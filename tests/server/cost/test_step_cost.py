"""What a call costs, by hand and by property; and that timed calls give the terms back."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.errors import ConfigError, InvalidRequestError
from crayon.server.cost.fit import fit, nnls
from crayon.server.cost.slowdown import Slowdown
from crayon.server.cost.step_cost import TERMS, StepCost, StepShape, attended, most, shape_of
from crayon.server.steps.step_plan import Row

COST = StepCost(base=1.0, per_token=0.5, weights=4.0, per_context=0.25, per_output=2.0, per_switch=8.0)

terms = st.floats(0, 10, allow_subnormal=False)
costs = st.builds(
    StepCost,
    base=terms,
    per_token=terms,
    weights=terms,
    per_context=terms,
    per_output=terms,
    per_switch=terms,
)
counts = st.integers(0, 10_000)
shapes = st.builds(StepShape, counts, counts, counts, st.integers(0, 4))


@pytest.mark.parametrize(
    ("shape", "seconds"),
    [
        (StepShape(0), 5.0),
        (StepShape(1), 5.0),
        (StepShape(8), 5.0),
        (StepShape(10), 6.0),
        (StepShape(8, 4, 1, 1), 16.0),
        (StepShape(20, 12, 3, 2), 36.0),
    ],
)
def test_a_call_costs_the_sum_of_its_terms(shape: StepShape, seconds: float) -> None:
    assert COST.seconds(shape) == seconds
    assert COST.scaled(3).seconds(shape) == 3 * seconds


@pytest.mark.parametrize(
    ("cost", "ridge"),
    [(COST, 8.0), (StepCost(per_token=1), 0.0), (StepCost(), 0.0), (StepCost(weights=1), math.inf)],
)
def test_the_ridge_is_where_computing_takes_as_long_as_reading(cost: StepCost, ridge: float) -> None:
    assert cost.ridge == ridge


@settings(deadline=None)
@given(costs, shapes, shapes)
def test_more_of_anything_never_costs_less(cost: StepCost, shape: StepShape, more: StepShape) -> None:
    assert cost.seconds(StepShape(*(a + b for a, b in zip(shape, more, strict=True)))) >= cost.seconds(shape)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_most_finds_the_last_that_fits(last: int, limit: int) -> None:
    assert most(lambda number: number <= last, limit) == min(last, limit)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50))
def test_each_token_attends_to_all_before_it_and_itself(start: int, tokens: int) -> None:
    assert attended(start, tokens) == sum(start + i + 1 for i in range(tokens))


def test_the_shape_of_rows() -> None:
    rows = [Row("a", 0, 10, 1, 1), Row("b", 1, 0, 3, 0)]
    assert shape_of(rows) == StepShape(4, 11 + 6, 1, 0)
    assert shape_of(rows, switches=1, cells=256) == StepShape(4, 4 * 256, 1, 1)


def test_a_resized_call_keeps_its_mix() -> None:
    assert StepShape(8, 80, 4, 1).resized(2) == StepShape(2, 20, 1, 1)
    assert StepShape(8, 80, 4, 1).resized(1) == StepShape(1, 10, 1, 1)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_term_is_a_time(value: float) -> None:
    with pytest.raises(ConfigError, match="per_token"):
        StepCost(per_token=value)


# -- fitting


def planted(draw: random.Random) -> StepCost:
    """A machine on which every term matters somewhere, with a ridge between 3 and 40 tokens."""
    token = 10 ** draw.uniform(-4, -2)
    reading = token * draw.uniform(3, 40)
    return StepCost(
        base=reading * draw.uniform(0.5, 1.5),
        per_token=token,
        weights=reading,
        per_context=token * 10 ** draw.uniform(-3, -2.3),
        per_output=token * draw.uniform(0.3, 1.5),
        per_switch=reading * draw.uniform(0.5, 2),
    )


def design() -> list[StepShape]:
    sizes = [2**i for i in range(10)]
    sweep = [StepShape(n, attended(depth, n), 1, 0) for n in sizes for depth in (0, 512, 2048)]
    switches = [StepShape(n, attended(512, n), 1, 1) for n in sizes]
    decode = [StepShape(n, n * depth, n, 0) for n in sizes[1:6] for depth in (128, 1024)]
    outputs = [StepShape(n, attended(0, n), n, 0) for n in sizes[1:]]
    return [*sweep, *switches, *decode, *outputs]


def timed(
    cost: StepCost, draw: random.Random, repeats: int, noise: float, outliers: float
) -> list[tuple[StepShape, float]]:
    samples = []
    for shape in design() * repeats:
        seconds = cost.seconds(shape) * max(0.5, draw.gauss(1, noise))
        samples.append((shape, seconds * (draw.uniform(2, 6) if draw.random() < outliers else 1)))
    return samples


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_exact_times_give_the_terms_back(seed: int) -> None:
    draw = random.Random(seed)
    cost = planted(draw)
    fitted = fit(timed(cost, draw, 1, 0, 0), folds=0)
    assert fitted.cost.terms() == pytest.approx(cost.terms(), rel=0.01)
    assert fitted.worst < 0.001


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_noisy_times_with_outliers_give_the_terms_back_nearly(seed: int) -> None:
    draw = random.Random(seed)
    cost = planted(draw)
    fitted = fit(timed(cost, draw, 60, 0.1, 0.1), folds=0)
    assert fitted.cost.terms() == pytest.approx(cost.terms(), rel=0.15)
    assert fitted.cost.ridge == pytest.approx(cost.ridge, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_a_few_noisy_repeats_predict_well_enough(seed: int) -> None:
    draw = random.Random(seed)
    cost = planted(draw)
    fitted = fit(timed(cost, draw, 5, 0.1, 0.1))
    off = [abs(fitted.cost.seconds(shape) / cost.seconds(shape) - 1) for shape in design()]
    assert float(np.median(off)) < 0.05
    assert max(off) < 0.15
    assert fitted.error_out is not None
    assert fitted.error <= fitted.error_out < 0.1
    assert 0.05 < fitted.noise < 0.1
    assert (fitted.samples, fitted.shapes) == (5 * len(design()), len(set(design())))


def test_the_errors_tell_what_the_formula_cannot_follow() -> None:
    cost = planted(random.Random(1))
    odd = design()[5]
    samples = [(shape, cost.seconds(shape) * (3 if shape == odd else 1)) for shape in set(design())]
    fitted = fit(samples)
    assert fitted.worst == pytest.approx(2 / 3, rel=0.01)
    assert fitted.error < 0.001


def test_a_slow_spell_does_not_change_the_terms() -> None:
    draw = random.Random(6)
    cost = planted(draw)
    slowdown = Slowdown(cost, design())
    mix = design() * 4
    draw.shuffle(mix)
    for number, shape in enumerate(mix):
        slowdown.observed(shape, (3 if 100 <= number < 200 else 1) * cost.seconds(shape))
    slowdown.adopt(fit(slowdown.remembered()).cost)
    assert slowdown.cost.terms() == pytest.approx(cost.terms(), rel=0.01)
    assert slowdown.factor == pytest.approx(1, rel=0.01)


def test_a_machine_without_a_ridge_and_one_far_below_it() -> None:
    line = StepCost(base=0.02, per_token=0.005)
    sizes = [StepShape(2**i) for i in range(8)]
    assert fit([(s, line.seconds(s)) for s in sizes]).cost.terms() == pytest.approx(line.terms(), rel=0.01, abs=1e-6)
    flat = fit([(s, 0.1) for s in sizes]).cost
    assert [flat.seconds(s) for s in sizes] == pytest.approx([0.1] * 8)


def test_one_call_is_met() -> None:
    shape = StepShape(7, 100, 2, 1)
    fitted = fit([(shape, 0.3)])
    assert fitted.cost.seconds(shape) == pytest.approx(0.3)
    assert fitted.error_out is None


@pytest.mark.parametrize("samples", [[], [(StepShape(1), 0.0)], [(StepShape(1), math.nan)]])
def test_nothing_to_fit_is_refused(samples: list[tuple[StepShape, float]]) -> None:
    with pytest.raises(InvalidRequestError, match="samples"):
        fit(samples)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 12))
def test_nnls_meets_the_conditions_of_the_optimum(seed: int, columns: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    x = nnls(matrix, target)
    gain = matrix.T @ (target - matrix @ x)
    assert (x >= 0).all()
    assert (gain < 1e-6).all()
    assert np.abs(gain * x).max() < 1e-6


# -- learning while running


def test_a_machine_that_gets_three_times_slower_is_followed_in_five_steps() -> None:
    slowdown = Slowdown(COST)
    draw = random.Random(3)
    mix = [StepShape(draw.randint(1, 64), draw.randint(0, 500), draw.randint(0, 8)) for _ in range(200)]
    for shape in mix[:100]:
        slowdown.observed(shape, COST.seconds(shape) * draw.gauss(1, 0.05))
    assert slowdown.factor == pytest.approx(1, rel=0.1)
    for shape in mix[100:105]:
        slowdown.observed(shape, 3 * COST.seconds(shape) * draw.gauss(1, 0.05))
    assert slowdown.factor == pytest.approx(3, rel=0.15)
    assert slowdown.seconds(mix[0]) == pytest.approx(slowdown.factor * COST.seconds(mix[0]))


def test_four_slow_steps_change_nothing() -> None:
    slowdown = Slowdown(COST)
    for slow in [1.0] * 9 + [20.0] * 4 + [1.0] * 9:
        slowdown.observed(StepShape(9), slow * COST.seconds(StepShape(9)))
        assert slowdown.factor == pytest.approx(1)


def test_times_that_mean_nothing_are_left_out() -> None:
    slowdown = Slowdown(StepCost())
    slowdown.observed(StepShape(1), 1.0)
    slowdown = Slowdown(COST)
    slowdown.observed(StepShape(1), 0.0)
    assert (slowdown.factor, slowdown.remembered()) == (1.0, [])


def test_a_refit_learns_the_terms_and_leaves_the_level_to_the_factor() -> None:
    draw = random.Random(5)
    before = planted(draw)
    after = StepCost(**{**before.terms(), "per_context": before.per_context * 4})
    slowdown = Slowdown(before, design())
    mix = [shape for shape in design() * 10 if shape.switches == 0]
    draw.shuffle(mix)
    for _ in range(4):
        for shape in mix:
            slowdown.observed(shape, 2 * after.seconds(shape))
        slowdown.adopt(fit(slowdown.remembered()).cost)
    off = [slowdown.seconds(shape) / (2 * after.seconds(shape)) - 1 for shape in design() if shape.switches == 0]
    assert float(np.median(np.abs(off))) < 0.05
    assert slowdown.cost.per_switch == pytest.approx(before.per_switch, rel=0.5)  # never seen, not forgotten


def test_every_term_has_a_name() -> None:
    assert tuple(COST.terms()) == TERMS
