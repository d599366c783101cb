from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import InvalidRequestError
from crayon.router.bounds import binomial_cdf, deferral_floor, fixed_sequence, min_kept, upper_bound

DELTAS = st.floats(0.001, 0.5)


def counted_cdf(k, n, p):
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@given(st.integers(1, 40), st.floats(0, 1), st.data())
def test_the_tail_is_the_sum_of_its_terms(n, p, data):
    k = data.draw(st.integers(0, n))
    assert binomial_cdf(k, n, p) == pytest.approx(counted_cdf(k, n, p), abs=1e-10)


def test_the_tail_holds_for_many_cases():
    # Symmetry: at p = 1/2 the two halves of an odd count are equal.
    for n in (999, 99_999):
        assert binomial_cdf(n // 2, n, 0.5) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize(
    ("errors", "n", "delta", "bound"),
    [
        (0, 29, 0.1, 1 - 0.1 ** (1 / 29)),
        (0, 1, 0.05, 0.95),
        (1, 1, 0.05, 1.0),
        (1, 2, 0.05, math.sqrt(0.95)),  # P(at most 1 of 2) = 1 - p^2
        (9, 10, 0.1, 0.9 ** (1 / 10)),
        (0, 0, 0.1, 1.0),
        (2, 10, 0.025, 0.5561),  # the usual two-sided table: 2 of 10 is 2.5 % to 55.6 %
        (50, 100, 0.025, 0.6017),
    ],
)
def test_upper_bounds_known_from_elsewhere(errors, n, delta, bound):
    assert upper_bound(errors, n, delta) == pytest.approx(bound, abs=5e-5)


@given(st.integers(1, 200), DELTAS, st.data())
def test_the_bound_is_above_the_rate_and_solves_its_equation(n, delta, data):
    k = data.draw(st.integers(0, n))
    high = upper_bound(k, n, delta)
    assert k / n <= high
    if k < n:
        assert binomial_cdf(k, n, high) == pytest.approx(delta, abs=1e-6)
        assert upper_bound(k + 1, n, delta) >= high
        assert upper_bound(k, n + 1, delta) <= high


@given(st.floats(0.005, 0.9), DELTAS)
def test_min_kept_is_the_least_number_without_error_that_passes(alpha, delta):
    n = min_kept(alpha, delta)
    assert 1 - delta ** (1 / n) <= alpha
    assert n == 1 or 1 - delta ** (1 / (n - 1)) > alpha


def test_min_kept_by_hand():
    assert min_kept(0.1, 0.1) == 22
    assert min_kept(0.05, 0.05) == 59
    assert min_kept(0.9, 0.1) == 1


def test_the_sequence_stops_at_the_first_failure_though_a_looser_one_would_pass():
    counts = [(50, 0), (60, 30), (600, 30)]
    assert upper_bound(30, 600, 0.1) < 0.1
    found = fixed_sequence(counts, 0.1, 0.1)
    assert found is not None
    assert (found.index, found.kept, found.errors) == (0, 50, 0)
    assert found.bound == upper_bound(0, 50, 0.1)


def test_nothing_passes_where_the_first_fails():
    assert fixed_sequence([(5, 0), (500, 0)], 0.1, 0.1) is None
    assert fixed_sequence([], 0.1, 0.1) is None


def test_the_promise_is_broken_at_most_as_often_as_said():
    """200 resamplings of a device whose risk among the kept rises through alpha; too much is rarely promised."""
    alpha, delta, n = 0.15, 0.2, 300
    grid = np.linspace(0.2, 1.0, 33)  # fixed beforehand
    below = 0.1 + 0.1 * grid**2  # the rate among all up to there
    assert below[0] < alpha < below[-1]
    rng = np.random.default_rng(11)
    broken = passed = 0
    for _ in range(200):
        score = rng.random(n)
        wrong = rng.random(n) < 0.1 + 0.3 * score**2
        counts = [(int((score <= t).sum()), int(wrong[score <= t].sum())) for t in grid]
        found = fixed_sequence(counts, alpha, delta)
        passed += found is not None
        broken += found is not None and below[found.index] > alpha
    assert broken / 200 <= delta
    assert passed > 50  # else it would be an empty test


def test_the_floor_by_hand():
    assert deferral_floor(0.4, 0.2) == pytest.approx(0.25)
    assert deferral_floor(0.1, 0.2) == 0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: upper_bound(3, 2, 0.1), "errors"),
        (lambda: upper_bound(-1, 2, 0.1), "errors"),
        (lambda: upper_bound(1.0, 2, 0.1), "errors"),
        (lambda: upper_bound(1, 2, 0), "delta"),
        (lambda: upper_bound(1, 2, math.nan), "delta"),
        (lambda: min_kept(1, 0.1), "alpha"),
        (lambda: deferral_floor(math.nan, 0.1), "error"),
        (lambda: fixed_sequence([(10, 0), (5, 0)], 0.1, 0.1), "counts[1]"),
        (lambda: fixed_sequence([(10, 11)], 0.1, 0.1), "counts[0]"),
    ],
)
def test_what_cannot_be_bounded_is_refused_by_name(call, field):
    with pytest.raises(InvalidRequestError) as caught:
        call()
    assert caught.value.field == field
