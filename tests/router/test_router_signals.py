from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.engine import TokenSignal
from crayon.errors import InvalidRequestError
from crayon.router import (
    SIGNALS,
    Features,
    RunningSignals,
    choice_features,
    signal_value,
)

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=20)


def read(*signals):
    seen = RunningSignals()
    for signal in signals:
        seen.add(signal)
    return Features(tokens=seen.features())


def test_choice_features_by_hand():
    found = choice_features([math.log(0.6), math.log(0.3), math.log(0.1)])
    assert (found.max_prob, found.margin) == (pytest.approx(0.6), pytest.approx(0.3))
    assert found.entropy == pytest.approx(-(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1)))
    assert found.options == 3
    assert choice_features([-3.0]).margin == 1
    assert choice_features([-3.0, -math.inf]).max_prob == 1


@given(LOGPROBS, st.floats(-500, 500))
def test_a_choice_depends_on_differences_only_and_not_on_order(logprobs, shift):
    found = choice_features(logprobs)
    moved = choice_features([value + shift for value in reversed(logprobs)])
    assert moved.max_prob == pytest.approx(found.max_prob)
    assert moved.entropy == pytest.approx(found.entropy, abs=1e-9)
    assert 1 / found.options <= found.max_prob + 1e-12
    assert 0 <= found.margin <= found.max_prob <= 1
    assert 0 <= found.entropy <= math.log(found.options) + 1e-9


@pytest.mark.parametrize("broken", [[], [math.nan], [-1.0, math.nan], [math.inf], [-math.inf, -math.inf]])
def test_a_choice_that_cannot_be_told_is_refused(broken):
    with pytest.raises(InvalidRequestError, match="logprobs"):
        choice_features(broken)


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=100))
def test_the_low_quantile_has_a_tenth_at_or_below_it_of_the_first_64(logprobs):
    seen = RunningSignals()
    for logprob in logprobs:
        seen.add(TokenSignal(logprob, 0.0, 0.0))
    low, held = seen.features().low_logprob, logprobs[:64]
    assert sum(value <= low for value in held) >= 0.1 * len(held)
    assert sum(value < low for value in held) < 0.1 * len(held) + 1e-9


def test_the_first_entropy_is_that_of_the_first_token():
    found = read(TokenSignal(-1, 2.5, 0.1), TokenSignal(-1, 9.0, 0.1))
    assert found.tokens.first_entropy == 2.5
    assert signal_value("first_entropy", found) == -2.5


SURE = Features(
    tokens=read(TokenSignal(-0.1, 0.2, 0.9), TokenSignal(-0.2, 0.3, 0.8)).tokens,
    choice=choice_features([-0.1, -5.0]),
    scope_margin=0.2,
)
UNSURE = Features(
    tokens=read(TokenSignal(-3.0, 3.0, 0.1), TokenSignal(-4.0, 4.0, 0.0)).tokens,
    choice=choice_features([-1.0, -1.1]),
    scope_margin=-0.2,
)


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_is_higher_for_the_surer_query_and_none_where_not_measured(name):
    assert signal_value(name, SURE) > signal_value(name, UNSURE)
    assert signal_value(name, Features()) is None


def test_a_signal_that_is_no_number_counts_as_not_measured():
    assert signal_value("first_entropy", read(TokenSignal(-1, math.nan, 0.1))) is None


def test_a_signal_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(InvalidRequestError, match=r"must be one of mean_logprob, .*not 'luck'"):
        signal_value("luck", SURE)


def test_the_mean_is_the_mean():
    found = read(*(TokenSignal(value, 0.0, 0.0) for value in (-1.0, -2.0, -6.0)))
    assert signal_value("mean_logprob", found) == pytest.approx(statistics.fmean([-1, -2, -6]))
