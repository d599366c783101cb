"""The predicted peak of the cache: cases worked out by hand, and against going through every step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.server.forecast.kv_peak import KvForecast

REQUESTS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), max_size=20)


def by_steps(requests: list[tuple[int, int]]) -> int:
    """Return the peak by looking at every step."""
    return max(
        sum(held + step for held, remaining in requests if step <= remaining)
        for step in range(1 + max((remaining for _, remaining in requests), default=0))
    )


def forecast(requests: list[tuple[int, int]], capacity: int = 1000) -> KvForecast:
    return KvForecast(capacity, [held for held, _ in requests], [remaining for _, remaining in requests])


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([], 0),
        ([(10, 5)], 15),
        ([(10, 5), (10, 5)], 30),  # both at their common end
        ([(10, 1), (10, 5)], 22),  # at the first end: 11 + 11; later only 15 is left
        ([(1, 2), (1, 50)], 51),  # at the last end, alone
        ([(100, 3), (10, 20), (10, 40)], 103 + 13 + 13),
        ([(5, 10), (5, 20), (5, 30)], 25 + 25),  # in the middle: 15 * 3 = 45, 25 * 2 = 50, 35
    ],
)
def test_the_peak_by_hand(requests: list[tuple[int, int]], expected: int) -> None:
    assert forecast(requests).peak == expected
    assert by_steps(requests) == expected


def test_a_candidate_that_ends_before_the_peak_is_free() -> None:
    ahead = forecast([(5, 10), (5, 20), (5, 30)], capacity=50)
    assert ahead.peak_with(1, 2) == 50
    assert ahead.fits(1, 2)
    assert not ahead.fits(1, 20)


def test_candidates_are_counted_one_after_the_other() -> None:
    ahead = forecast([], capacity=60)
    taken = []
    for prompt, remaining in [(10, 10), (10, 10), (10, 10), (10, 10), (10, 1)]:
        taken.append(ahead.fits(prompt, remaining))
        if taken[-1]:
            ahead.add(prompt, remaining)
    assert taken == [True, True, True, False, True]
    assert ahead.peak == 60


def test_nobody_is_let_in_while_too_much_is_expected_already() -> None:
    assert not forecast([(10, 100)], capacity=100).fits(1, 1)


@settings(deadline=None)
@given(REQUESTS)
def test_the_peak_is_that_of_going_through_every_step(requests: list[tuple[int, int]]) -> None:
    assert forecast(requests).peak == by_steps(requests)


@settings(deadline=None)
@given(REQUESTS, REQUESTS)
def test_adding_is_the_same_as_having_had(first: list[tuple[int, int]], more: list[tuple[int, int]]) -> None:
    ahead = forecast(first)
    for i, (prompt, remaining) in enumerate(more, 1):
        expected = by_steps([*first, *more[:i]])
        assert ahead.peak_with(prompt, remaining) == expected
        ahead.add(prompt, remaining)
        assert ahead.peak == expected


@settings(deadline=None)
@given(REQUESTS, st.integers(1, 50), st.integers(1, 40), st.integers(1, 600), st.integers(0, 100))
def test_what_fits_fits_a_larger_cache_and_a_smaller_request(
    running: list[tuple[int, int]], prompt: int, remaining: int, capacity: int, extra: int
) -> None:
    if forecast(running, capacity).fits(prompt, remaining):
        assert forecast(running, capacity + extra).fits(prompt, remaining)
        assert forecast(running, capacity).fits(max(prompt - extra, 0), max(remaining - extra, 1))
