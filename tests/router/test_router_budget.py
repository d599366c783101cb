"""The budget's rules: what is let through, what it costs, and what clocks that go wrong do to it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import InvalidRequestError
from crayon.router.budget import (
    KEPT,
    MAX_WINDOW,
    SECONDS_A_DAY,
    SENT,
    Budget,
    Cost,
    Instant,
    charge,
    keep,
    limit_reached,
    may_send,
    nothing_spent,
    remaining,
    roll,
    seconds_to_refill,
    settle,
)

NOON = 20_000 * SECONDS_A_DAY + SECONDS_A_DAY / 2
START = Instant(NOON, 1000.0, "boot-1")


def later(seconds, *, wall=None):
    """The same start of the machine some seconds on; the wall clock may say something else."""
    return Instant(NOON + seconds if wall is None else wall, START.steady + seconds, START.boot)


@pytest.mark.parametrize("field", ["share", "money_per_day", "prompt_price", "answer_price"])
@pytest.mark.parametrize("value", [-0.01, math.nan, math.inf, -math.inf, True, "1"])
def test_amounts_that_are_no_amounts_are_refused(field, value):
    with pytest.raises(InvalidRequestError, match=f"budget.{field}"):
        Budget(**{field: value})


@pytest.mark.parametrize("field", ["tokens_per_day", "window"])
@pytest.mark.parametrize("value", [-1, 0.5, math.nan, True, "1"])
def test_counts_that_are_no_counts_are_refused(field, value):
    with pytest.raises(InvalidRequestError, match=f"budget.{field}"):
        Budget(**{field: value})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"share": 1.01}, "share"),
        ({"share": 0.3, "window": 3}, "share"),
        ({"window": 0}, "window"),
        ({"window": MAX_WINDOW + 1}, "window"),
        ({"money_per_day": 1.0}, "money_per_day"),
        ({"prompt_price": None}, "prompt_price"),
    ],
)
def test_limits_that_could_not_hold_are_refused(options, field):
    with pytest.raises(InvalidRequestError, match=f"budget.{field}"):
        Budget(**options)


@pytest.mark.parametrize(("share", "window", "queries"), [(0.29, 100, 29), (0.3, 10, 3), (0, 5, 0), (1, 7, 7)])
def test_a_share_is_a_number_of_queries(share, window, queries):
    assert Budget(share=share, window=window).queries == queries


def test_without_limits_everything_may_be_sent():
    spent = replace(nothing_spent(START), tokens=10**12, money=1e12, queries=SENT * MAX_WINDOW)
    assert not Budget().limited
    assert may_send(Budget(), spent)


@given(st.lists(st.booleans(), max_size=80), st.integers(1, 12), st.floats(0, 1))
def test_of_any_window_of_queries_at_most_the_share_was_sent(wishes, window, share):
    try:
        budget = Budget(share=share, window=window)
    except InvalidRequestError:
        return
    spent = nothing_spent(START)
    for wish in wishes:
        sent = wish and may_send(budget, spent)
        spent = charge(budget, spent, Cost(1, 1))[0] if sent else keep(spent)
        assert spent.queries[-window:].count(SENT) <= share * window + 1e-9


def test_a_share_is_not_wasted():
    budget = Budget(share=0.5, window=4)
    spent, sent = nothing_spent(START), []
    for _ in range(8):
        sent.append(may_send(budget, spent))
        spent = charge(budget, spent, Cost(1, 1))[0] if sent[-1] else keep(spent)
    assert sent == [True, True, False, False] * 2


def test_what_a_query_costs_is_charged_beforehand_and_settled_at_its_end():
    budget = Budget(tokens_per_day=100, money_per_day=1.0, prompt_price=2000.0, answer_price=4000.0)
    spent, reserved = charge(budget, nothing_spent(START), Cost(10, 50))
    assert (spent.tokens, spent.money) == (60, pytest.approx(0.22))
    spent = settle(budget, spent, reserved, Cost(12, 5))
    assert (spent.tokens, spent.money) == (17, pytest.approx(0.044))
    left = remaining(budget, spent)
    assert (left.queries, left.tokens, left.money) == (None, 83, pytest.approx(0.956))


def test_what_the_server_never_took_costs_nothing_and_is_no_sent_query():
    budget = Budget(share=0.5, window=10, tokens_per_day=100)
    spent, reserved = charge(budget, nothing_spent(START), Cost(10, 50))
    spent = settle(budget, spent, reserved, None)
    assert (spent.tokens, spent.money, spent.queries) == (0, 0.0, KEPT)


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"share": 0.0}, "share"),
        ({"tokens_per_day": 60}, "tokens_per_day"),
        ({"tokens_per_day": 0}, "tokens_per_day"),
        ({"money_per_day": 0.0001, "prompt_price": 10.0}, "money_per_day"),
    ],
)
def test_the_limit_that_is_reached_is_named(options, limit):
    budget = Budget(**options)
    spent, _ = charge(budget, nothing_spent(START), Cost(10, 50))
    assert limit_reached(budget, spent) == limit
    assert not may_send(budget, spent)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=30), st.integers(1, 200))
def test_queries_that_run_at_once_overspend_by_one_of_them_at_most(costs, limit):
    budget = Budget(tokens_per_day=limit)
    spent = nothing_spent(START)
    for prompt, answer in costs:  # none of them ends
        if may_send(budget, spent):
            spent, _ = charge(budget, spent, Cost(prompt, answer))
    assert spent.tokens < limit + 100


# -- days and clocks


def test_a_new_day_refills_tokens_and_money_and_keeps_the_queries():
    budget = Budget(tokens_per_day=10)
    spent, _ = charge(budget, nothing_spent(START), Cost(10, 5))
    assert not may_send(budget, roll(spent, later(SECONDS_A_DAY / 2 - 1)))
    assert seconds_to_refill(roll(spent, later(SECONDS_A_DAY / 2 - 1))) == pytest.approx(1.0)
    tomorrow = roll(spent, later(SECONDS_A_DAY / 2))
    assert may_send(budget, tomorrow)
    assert (tomorrow.tokens, tomorrow.queries) == (0, SENT)


def test_a_query_that_ends_on_the_next_day_cost_the_day_before():
    budget = Budget(tokens_per_day=100)
    spent, reserved = charge(budget, nothing_spent(START), Cost(10, 50))
    spent = settle(budget, roll(spent, later(SECONDS_A_DAY)), reserved, Cost(10, 20))
    assert spent.tokens == 0


@pytest.mark.parametrize("jump", [SECONDS_A_DAY, 400 * SECONDS_A_DAY, -400 * SECONDS_A_DAY, -NOON])
def test_a_wall_clock_that_is_set_while_the_machine_runs_changes_nothing(jump):
    budget = Budget(tokens_per_day=10)
    spent, _ = charge(budget, nothing_spent(START), Cost(10, 5))
    soon = roll(spent, later(60, wall=NOON + jump))
    assert not may_send(budget, soon), "no early refill"
    tomorrow = roll(soon, later(SECONDS_A_DAY, wall=NOON + jump))
    assert may_send(budget, tomorrow), "not locked"


def test_a_machine_that_starts_with_its_clock_reset_is_locked_for_a_day_of_running_at_most():
    budget = Budget(tokens_per_day=10)
    spent, _ = charge(budget, nothing_spent(START), Cost(10, 5))
    reset = Instant(0.0, 5.0, "boot-2")
    spent = roll(spent, reset)
    assert not may_send(budget, spent)
    assert may_send(budget, roll(spent, Instant(1.0, 5.0 + SECONDS_A_DAY, "boot-2")))


def test_a_clock_that_was_years_ahead_once_does_not_lock_for_ever():
    budget = Budget(tokens_per_day=10)
    ahead = nothing_spent(Instant(NOON + 3650 * SECONDS_A_DAY, 5.0, "boot-2"))
    spent, _ = charge(budget, ahead, Cost(10, 5))
    spent = roll(spent, Instant(NOON, 60.0, "boot-3"))
    assert not may_send(budget, spent)
    assert may_send(budget, roll(spent, Instant(NOON, 60.0 + SECONDS_A_DAY, "boot-3")))


def test_days_while_the_machine_was_off_count():
    budget = Budget(tokens_per_day=10)
    spent, _ = charge(budget, nothing_spent(START), Cost(10, 5))
    assert may_send(budget, roll(spent, Instant(NOON + SECONDS_A_DAY, 3.0, "boot-2")))


def test_a_steady_clock_that_went_back_is_another_start_of_the_machine():
    spent = replace(nothing_spent(START), at=replace(START, steady=1e12))
    spent = roll(spent, START)
    assert spent.at.steady == START.steady
    assert roll(spent, later(SECONDS_A_DAY)).day == spent.day + 1


@given(
    st.lists(st.tuples(st.floats(0, 3 * SECONDS_A_DAY), st.floats(-4e9, 4e9), st.booleans()), min_size=1, max_size=20)
)
def test_believed_time_never_goes_back_and_follows_the_steady_clock(steps):
    spent, now, boot = nothing_spent(START), START, 1
    for seconds, wall, restart in steps:
        boot += restart
        now = Instant(wall, seconds if restart else now.steady + seconds, f"boot-{boot}")
        before, spent = spent, roll(spent, now)
        assert spent.at.wall >= before.at.wall
        assert spent.day >= before.day
        if not restart:
            assert spent.at.wall == pytest.approx(before.at.wall + seconds)
