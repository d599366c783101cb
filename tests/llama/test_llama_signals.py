from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import NotFiniteError
from crayon.llama.signals import SignalMeter, likeliest, log_softmax_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crayon.engine import TokenSignal

LOGITS = st.lists(
    st.floats(-60, 60, width=32) | st.just(-math.inf) | st.floats(-1000, 1000, width=32), min_size=2, max_size=50
).filter(lambda row: max(row) > -math.inf)

ROWS = st.integers(1, 40).flatmap(
    lambda width: st.lists(
        st.lists(
            st.floats(-60, 60, width=32) | st.just(-math.inf) | st.floats(-1000, 1000, width=32),
            min_size=width,
            max_size=width,
        ).filter(lambda row: max(row) > -math.inf),
        min_size=0,
        max_size=20,
    )
)


def close(one: list[tuple[int, TokenSignal]], other: list[tuple[int, TokenSignal]]) -> bool:
    """Whether the tokens are the same, and the signals to 1e-5."""
    if [token for token, _ in one] != [token for token, _ in other]:
        return False
    return all(
        getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-5, rel=1e-5, nan_ok=True)
        for (_, a), (_, b) in zip(one, other, strict=True)
        for name in ("logprob", "entropy", "margin")
    )


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


@given(ROWS, st.lists(st.none() | st.integers(0, 39), min_size=20, max_size=20))
def test_many_rows_are_measured_as_each_alone(rows: list[list[float]], picks: list[int | None]) -> None:
    width = len(rows[0]) if rows else 3
    logits = np.array(rows, np.float32).reshape(-1, width)
    tokens = [None if pick is None else pick % width for pick in picks[: len(rows)]]
    before = logits.copy()
    meter = SignalMeter(width)
    together, greedy = meter.measure_rows(logits, tokens), meter.measure_rows(logits)
    assert close(together, [meter.measure(row, token) for row, token in zip(logits, tokens, strict=True)])
    assert close(greedy, [meter.measure(row) for row in logits])
    assert np.array_equal(logits, before)
    assert likeliest(logits) == [token for token, _ in greedy]


@pytest.mark.parametrize("n", [0, 1, 3, 4, 8, 9, 33])
def test_many_rows_of_a_real_vocabulary_are_measured_as_each_alone(n: int) -> None:
    width = 49_152 + 7
    logits = np.random.default_rng(n).normal(0, 4, (n, width)).astype(np.float32)
    logits[::3, ::50] = -math.inf
    tokens = [None if i % 2 else 50 * i + 1 for i in range(n)]
    meter = SignalMeter(width)
    expected = [meter.measure(row, token) for row, token in zip(logits, tokens, strict=True)]
    assert close(meter.measure_rows(logits, tokens), expected)
    assert meter.measure_rows(logits, tokens) == meter.measure_rows(logits, tokens)


def test_of_equally_likely_tokens_the_first_is_taken_in_every_way() -> None:
    logits = np.zeros((6, 9), np.float32)
    logits[:, 4:7] = 2.0
    meter = SignalMeter(9)
    assert likeliest(logits) == [token for token, _ in meter.measure_rows(logits)] == [4] * 6
    assert all(signal.margin == 0.0 for _, signal in meter.measure_rows(logits))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_with_one_value_that_is_no_number_is_refused(value: float) -> None:
    logits = np.random.default_rng(1).normal(0, 4, (3, 30)).astype(np.float32)
    logits[2, 17] = value
    for call in (
        lambda: SignalMeter(30).measure(logits[2], 3),
        lambda: SignalMeter(30).measure_rows(logits),
        lambda: likeliest(logits),
        lambda: log_softmax_at(logits[2], [3]),
    ):
        with pytest.raises(NotFiniteError):
            call()


def test_a_row_of_which_every_token_is_banned_is_refused() -> None:
    with pytest.raises(NotFiniteError):
        SignalMeter(30).measure(np.full(30, -math.inf, np.float32))


@given(LOGITS)
def test_log_softmax_agrees_with_float64(row: list[float]) -> None:
    logits = np.array(row, np.float32)
    tokens = np.flatnonzero(np.isfinite(logits)).tolist()
    assert log_softmax_at(logits, tokens) == pytest.approx(log_probabilities(logits)[tokens], abs=1e-4, rel=1e-5)


def test_log_softmax_of_a_banned_token_is_minus_infinity() -> None:
    logits = np.array([1.0, -math.inf], np.float32)
    assert log_softmax_at(logits, [1, 0]).tolist() == [-math.inf, 0.0]
