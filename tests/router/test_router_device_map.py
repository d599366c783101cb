"""How likely the device is right by how sure it was: fitted curves, with and without a belief."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import InvalidRequestError
from crayon.router.cases import Prior
from crayon.router.device_map import CurvePrior, fit_device_map

BELIEF = CurvePrior(4.0, 1.0, -1.0, 1.0)


def test_without_a_case_the_curve_is_what_is_believed() -> None:
    found = fit_device_map([], [], Prior(), BELIEF)
    assert (found.slope, found.intercept) == (pytest.approx(4.0), pytest.approx(-1.0))
    assert found.right(0.5) == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_one_surprise_moves_the_curve_a_little_and_many_move_it_far() -> None:
    one = fit_device_map([0.9], [0.0], Prior(), BELIEF)
    many = fit_device_map([0.9] * 200, [0.0] * 200, Prior(), BELIEF)
    assert 0.5 < one.right(0.9) < BELIEF_AT_09
    assert many.right(0.9) < 0.1


BELIEF_AT_09 = 1 / (1 + math.exp(-2.6))


def test_a_prior_by_hand() -> None:
    """One case at 0 moves only the intercept b: b - centre = sd^2 * (y - sigmoid(b))."""
    found = fit_device_map([0.0], [1.0], Prior(), BELIEF)
    assert found.slope == pytest.approx(4.0)
    assert found.intercept + 1.0 == pytest.approx(1.0 - 1 / (1 + math.exp(-found.intercept)), abs=1e-9)


def test_many_cases_overrule_the_belief() -> None:
    rng = np.random.default_rng(3)
    sure = rng.random(4000)
    right = (rng.random(4000) < 1 / (1 + np.exp(-(8 * sure - 4)))).astype(float)
    found = fit_device_map(sure.tolist(), right.tolist(), Prior(), CurvePrior(0.5, 2.0, 2.0, 2.0))
    assert found.slope == pytest.approx(8.0, abs=0.8)
    assert found.intercept == pytest.approx(-4.0, abs=0.5)


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(0, 1), st.just(-math.inf)), st.sampled_from([0.0, 1.0])), max_size=30
    )
)
def test_any_cases_give_a_chance_that_never_falls(cases: list[tuple[float | None, float]]) -> None:
    found = fit_device_map([sure for sure, _ in cases], [right for _, right in cases], Prior(), BELIEF)
    chances = [found.right(sure) for sure in (0.0, 0.3, 0.6, 1.0)]
    assert all(0 <= chance <= 1 for chance in chances)
    assert chances == sorted(chances)


@pytest.mark.parametrize(
    ("values", "named"),
    [((-1.0, 1.0, 0.0, 1.0), "slope"), ((1.0, 0.0, 0.0, 1.0), "slope_sd"), ((1.0, 1.0, math.nan, 1.0), "intercept")],
)
def test_a_belief_that_is_none_is_refused(values: tuple[float, float, float, float], named: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"curve.{named}"):
        CurvePrior(*values)
