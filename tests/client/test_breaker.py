"""The circuit breaker, on a clock of its own."""

from __future__ import annotations

import pytest
from hand_clock import HandClock

from crayon.client import Breaker, BreakerState


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def breaker(clock: HandClock) -> Breaker:
    return Breaker(failures=3, cooldown=5.0, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.allow()
        breaker.failure()


def test_it_opens_after_failures_in_a_row_only(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.success()
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allow()
    assert breaker.retry_after == 5.0


def test_after_the_cooldown_one_request_tries(breaker: Breaker, clock: HandClock) -> None:
    fail(breaker, 3)
    clock.now += 5.0
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.retry_after == 0.0
    assert breaker.allow()
    assert not breaker.allow()
    breaker.success()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allow()


def test_a_try_that_fails_opens_it_again(breaker: Breaker, clock: HandClock) -> None:
    fail(breaker, 3)
    clock.now += 5.0
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    clock.now += 4.9
    assert not breaker.allow()


def test_a_try_that_tells_nothing_lets_the_next_one_try(breaker: Breaker, clock: HandClock) -> None:
    fail(breaker, 3)
    clock.now += 5.0
    assert breaker.allow()
    breaker.neutral()
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.allow()
