"""Intervals, held against cases whose outcome is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crayon.lab.eval.interval import bootstrap


def test_equal_variants_differ_by_nothing() -> None:
    points = 100.0 * np.array([[0, 1, 1, 0], [1, 1, 0, 0]])
    assert bootstrap([(points, points)]) == (0.0, 0.0, 0.0)


def test_a_constant_difference_is_certain() -> None:
    points = np.arange(6.0).reshape(2, 3)
    value, low, high = bootstrap([(points + 5.0, points)])
    assert value == pytest.approx(5.0)
    assert low == pytest.approx(5.0)
    assert high == pytest.approx(5.0)


def test_over_items_it_is_the_usual_interval() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = (100.0 * rng.integers(0, 2, (1, 400)) for _ in range(2))
    value, low, high = bootstrap([(ours, theirs)])
    difference = ours - theirs
    half = 1.96 * difference.std() / 20.0
    assert value == pytest.approx(difference.mean())
    assert value - low == pytest.approx(half, rel=0.1)
    assert high - value == pytest.approx(half, rel=0.1)


def test_what_differs_between_draws_alone_widens_it() -> None:
    # Every item is alike within a draw: only the draws are uncertain.
    ours = np.repeat([[0.0], [0.0], [100.0], [100.0]], 50, axis=1)
    value, low, high = bootstrap([(ours, np.zeros((1, 50)))])
    assert (value, low, high) == (50.0, 0.0, 100.0)


def test_pairing_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(2)
    hard = 100.0 * rng.integers(0, 2, (1, 200))
    ours = np.clip(hard + 0.0, 0, 100)
    ours[0, :10] = 100.0
    paired = bootstrap([(ours, hard)])
    shuffled = bootstrap([(ours, rng.permutation(hard, axis=1))])
    assert paired[2] - paired[1] < 0.5 * (shuffled[2] - shuffled[1])


def test_tasks_count_alike_whatever_their_size() -> None:
    small, large = np.full((2, 2), 100.0), np.zeros((2, 300))
    assert bootstrap([(small, np.zeros((1, 2))), (large, np.zeros((2, 300)))])[0] == pytest.approx(50.0)


def test_a_ratio_is_that_of_the_means() -> None:
    value, low, high = bootstrap([(np.full((3, 5), 40.0), np.full((1, 5), 50.0))], "ratio")
    assert value == pytest.approx(0.8)
    assert low == pytest.approx(0.8)
    assert high == pytest.approx(0.8)


def test_nothing_to_compare_gives_no_number() -> None:
    assert all(math.isnan(value) for value in bootstrap([]))
    assert math.isnan(bootstrap([(np.zeros((1, 3)), np.zeros((1, 3)))], "ratio")[0])
