"""What each client may ask for, by a clock of the test's own."""

from __future__ import annotations

import contextlib

import pytest
from hand_clock import HandClock
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import ConfigError, OverloadedError
from crayon.server.limits import ClientLimits, Limits, TokenBucket


def refused(limits: ClientLimits, client: str = "a") -> float:
    """Return after how many seconds a client that is refused may come again; 0 if it is let in."""
    try:
        with limits.admit(client):
            return 0.0
    except OverloadedError as error:
        return error.retry_after


STEPS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 500)), max_size=40)


@given(per_minute=st.integers(1, 10_000), steps=STEPS)
def test_a_bucket_never_gives_more_than_its_rate_allows(per_minute: int, steps: list[tuple[float, float]]) -> None:
    clock = HandClock()
    bucket = TokenBucket(per_minute, clock)
    given_out = passed = 0.0
    for seconds, amount in steps:
        clock.now += seconds
        passed += seconds
        if not bucket.wait(amount):
            taken = min(amount, bucket.capacity)
            bucket.charge(taken)
            given_out += taken
        assert given_out <= (per_minute * (1 + passed / 60)) * (1 + 1e-9) + 1e-6
        assert bucket.level <= bucket.capacity


@given(per_minute=st.integers(1, 10_000), steps=STEPS, amount=st.floats(0.1, 20_000))
def test_who_waits_as_told_is_let_in(per_minute: int, steps: list[tuple[float, float]], amount: float) -> None:
    clock = HandClock()
    bucket = TokenBucket(per_minute, clock)
    for seconds, charge in steps:
        clock.now += seconds
        bucket.charge(charge)
    clock.now += bucket.wait(amount)
    assert bucket.wait(amount) <= 0.001


@given(charge=st.floats(0, 1e6), back=st.floats(0, 1e6))
def test_a_clock_that_runs_backwards_gives_nothing(charge: float, back: float) -> None:
    clock = HandClock()
    bucket = TokenBucket(60, clock)
    bucket.charge(charge)
    level = bucket.level
    clock.now -= back
    assert bucket.level == level


def test_requests_a_minute_are_counted_by_client() -> None:
    clock = HandClock()
    limits = ClientLimits(Limits(requests_per_minute=2), clock)
    assert [refused(limits), refused(limits), refused(limits)] == [0.0, 0.0, 30.0]
    assert refused(limits, "b") == 0.0
    clock.now += 30
    assert [refused(limits), refused(limits)] == [0.0, 30.0]


def test_concurrent_requests_are_counted_while_they_run() -> None:
    limits = ClientLimits(Limits(concurrent=2), HandClock())
    with limits.admit("a"):
        with limits.admit("a"):
            assert refused(limits) > 0
            assert refused(limits, "b") == 0.0
        assert refused(limits) == 0.0
    with contextlib.suppress(KeyError), limits.admit("a"):
        raise KeyError("a handler that fails")
    assert refused(limits) == 0.0


def test_tokens_are_charged_afterwards_and_a_debt_is_waited_out() -> None:
    clock = HandClock()
    limits = ClientLimits(Limits(tokens_per_minute=60), clock)
    with limits.admit("a"):
        limits.charge("a", 120)
    assert refused(limits) == pytest.approx(61, abs=0.01)
    assert refused(limits, "b") == 0.0
    clock.now += 62
    assert refused(limits) == 0.0


def test_a_refused_request_costs_nothing() -> None:
    clock = HandClock()
    limits = ClientLimits(Limits(concurrent=1, requests_per_minute=2), clock)
    with limits.admit("a"):
        for _ in range(10):
            assert refused(limits) > 0
    assert refused(limits) == 0.0


def test_clients_that_rest_are_forgotten_and_those_in_debt_are_not() -> None:
    clock = HandClock()
    limits = ClientLimits(Limits(tokens_per_minute=60), clock)
    limits.charge("debtor", 10**6)
    for number in range(5000):
        assert refused(limits, f"client {number}") == 0.0
    assert len(limits) <= 1025
    assert refused(limits, "debtor") > 0


@pytest.mark.parametrize("name", ["concurrent", "requests_per_minute", "tokens_per_minute"])
def test_a_limit_of_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Limits(**{name: 0})
    assert caught.value.key == name
