from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.llama.signals import SignalMeter, log_softmax_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOGITS = st.lists(
    st.floats(-60, 60, width=32) | st.just(-math.inf) | st.floats(-1000, 1000, width=32), min_size=2, max_size=50
).filter(lambda row: max(row) > -math.inf)


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = logits.astype(np.float64)
    exact -= exact.max()
    return exact - np.log(np.exp(exact).sum())


@given(LOGITS, st.integers(0, 49))
def test_signals_agree_with_the_definition_in_float64(row: list[float], pick: int) -> None:
    logits = np.array(row, np.float32)
    before = logits.copy()
    finite = np.flatnonzero(np.isfinite(logits))
    token = int(finite[pick % len(finite)])
    meter = SignalMeter(len(row))
    chosen, signal = meter.measure(logits, token)

    exact = log_probabilities(logits)
    p = np.exp(exact)
    entropy = float(-(p[p > 0] * exact[p > 0]).sum())
    top = np.sort(p)[::-1]
    assert chosen == token
    assert signal.logprob == pytest.approx(exact[token], abs=1e-4, rel=1e-5)
    assert signal.entropy == pytest.approx(entropy, abs=1e-4)
    assert signal.margin == pytest.approx(top[0] - top[1], abs=1e-5)
    assert np.array_equal(logits, before)


@given(LOGITS)
def test_without_a_token_the_likeliest_is_taken(row: list[float]) -> None:
    logits = np.array(row, np.float32)
    token, signal = SignalMeter(len(row)).measure(logits)
    assert logits[token] == logits.max()
    assert signal.logprob == pytest.approx(log_probabilities(logits).max(), abs=1e-4)
    assert signal.entropy >= 0
    assert 0 <= signal.margin <= 1


def test_an_unlikely_token_keeps_its_true_log_probability() -> None:
    logits = np.array([0.0, -200.0, -math.inf], np.float32)
    assert SignalMeter(3).measure(logits, 1)[1].logprob == pytest.approx(-200.0)


def test_banned_tokens_leave_the_entropy_finite() -> None:
    logits = np.full(100, -math.inf, np.float32)
    logits[7] = 3.0
    token, signal = SignalMeter(100).measure(logits)
    assert (token, signal.logprob, signal.margin) == (7, 0.0, 1.0)
    assert signal.entropy == pytest.approx(0.0, abs=1e-6)


def test_equal_logits_have_the_largest_entropy_and_no_margin() -> None:
    _, signal = SignalMeter(1000).measure(np.ones(1000, np.float32))
    assert signal.entropy == pytest.approx(math.log(1000), rel=1e-5)
    assert signal.margin == 0.0


def test_a_meter_keeps_nothing_of_the_row_before() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 8, (5, 64)).astype(np.float32)
    meter = SignalMeter(64)
    assert [meter.measure(row) for row in rows] == [SignalMeter(64).measure(row) for row in rows]


@given(LOGITS)
def test_log_softmax_agrees_with_float64(row: list[float]) -> None:
    logits = np.array(row, np.float32)
    tokens = np.flatnonzero(np.isfinite(logits)).tolist()
    assert log_softmax_at(logits, tokens) == pytest.approx(log_probabilities(logits)[tokens], abs=1e-4, rel=1e-5)


def test_log_softmax_of_a_banned_token_is_minus_infinity() -> None:
    logits = np.array([1.0, -math.inf], np.float32)
    assert log_softmax_at(logits, [1, 0]).tolist() == [-math.inf, 0.0]
