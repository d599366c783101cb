from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_tools import unit

from crayon.adapters import Gate, gate_weights, similarities
from crayon.errors import AdapterError, InvalidRequestError

GATE = Gate(temperature=0.1, sharpen=0.9, floor=0.3)
cosines = st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=12).map(np.array)
gates = st.builds(Gate, temperature=st.floats(0.001, 100.0), sharpen=st.floats(-1.0, 2.0), floor=st.floats(-1.0, 2.0))


def test_the_nearest_key_has_the_highest_cosine() -> None:
    keys = unit(np.random.default_rng(0), 5, 64)
    near = keys[3] + 0.05 * np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    found = similarities(near, keys)
    assert int(np.argmax(found)) == 3
    assert found[3] > 0.95
    assert np.abs(found).max() <= 1.0 + 1e-6


def test_samples_that_cancel_out_are_near_nothing() -> None:
    keys = unit(np.random.default_rng(0), 3)
    assert similarities(np.concatenate([keys[:1], -keys[:1]]), keys).tolist() == [0.0, 0.0, 0.0]


def test_samples_that_make_no_direction_are_refused() -> None:
    keys = unit(np.random.default_rng(0), 3)
    for samples, message in (
        (keys[:0], "no embedding"),
        (keys[0], "no embedding"),
        (keys[:, :2], "have 2 dimensions, the pool's keys 4"),
        (keys * np.float32(np.nan), "not finite"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            similarities(samples, keys)


@given(similarity=cosines, gate=gates)
def test_weights_are_shares_and_the_nearest_has_the_most(
    similarity: np.ndarray[tuple[int], np.dtype[np.float64]], gate: Gate
) -> None:
    weights = gate_weights(similarity, gate)
    assert weights.shape == similarity.shape
    assert np.isfinite(weights).all()
    assert weights.min() >= 0.0
    assert weights.sum() <= 1.0 + 1e-9
    assert weights[int(np.argmax(similarity))] == weights.max()
    assert weights.any() == bool(similarity.max() >= gate.floor)


def test_no_member_fits() -> None:
    assert not gate_weights(np.array([0.29, -0.5]), GATE).any()


def test_a_close_member_answers_alone() -> None:
    assert gate_weights(np.array([0.7, 0.95, 0.92]), GATE).tolist() == [0.0, 1.0, 0.0]


def test_between_them_members_share_and_the_base_keeps_the_rest() -> None:
    weights = gate_weights(np.array([0.6, 0.5, 0.3]), GATE)
    assert weights[0] / weights[1] == pytest.approx(np.exp(1.0))
    assert weights.sum() == pytest.approx(GATE.mass)


def test_each_member_may_have_a_threshold_of_its_own() -> None:
    gate = Gate(floor=0.1, alone=(0.5, 0.8))
    assert gate_weights(np.array([0.55, 0.3]), gate).tolist() == [1.0, 0.0]
    assert gate_weights(np.array([0.3, 0.75]), gate).sum() == pytest.approx(gate.mass)
    with pytest.raises(InvalidRequestError, match=r"gate\.alone"):
        gate_weights(np.array([0.5, 0.5, 0.5]), gate)


@pytest.mark.parametrize("fields", [{"mass": 0.0}, {"mass": 1.1}, {"mass": float("nan")}, {"alone": (0.5, 3.0)}])
def test_gates_out_of_bounds_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(AdapterError, match="gate"):
        Gate(**fields)  # type: ignore[arg-type]  # wrong on purpose


@given(similarity=cosines, gate=gates, seed=st.integers(0, 100))
def test_the_order_of_members_does_not_matter(
    similarity: np.ndarray[tuple[int], np.dtype[np.float64]], gate: Gate, seed: int
) -> None:
    distinct = np.unique(similarity)  # of two equally near ones, sharpening takes the first
    order = np.random.default_rng(seed).permutation(len(distinct))
    assert gate_weights(distinct[order], gate) == pytest.approx(gate_weights(distinct, gate)[order])
