from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_tools import unit

from crayon.adapters import Gate, gate_weights, similarities
from crayon.adapters.gate import scaled
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


def test_thresholds_follow_the_number_of_samples() -> None:
    assert scaled(0.6, 16) == pytest.approx(0.6)
    assert scaled(2.0, 4) == 2.0
    assert scaled(-1.0, 4) == -1.0
    # By the formula of the docstring: 0.6 has odds 0.5625, a quarter of the samples a quarter of them.
    assert scaled(0.6, 4) == pytest.approx(np.sqrt(0.140625 / 1.140625))
    assert [scaled(0.6, n) for n in (1, 4, 16, 64)] == sorted(scaled(0.6, n) for n in (1, 4, 16, 64))
    assert scaled(0.6, 1000) == scaled(0.6, 64)
    similarity = np.array([0.5, 0.2])
    gate = Gate(floor=0.1, alone=(0.6, 0.6))
    assert gate_weights(similarity, gate, 16).sum() == pytest.approx(gate.mass)
    assert gate_weights(similarity, gate, 6).tolist() == [1.0, 0.0]


def test_the_formula_of_the_thresholds_holds_for_random_directions() -> None:
    rng = np.random.default_rng(0)
    direction = np.zeros(200)
    direction[0] = 1.0
    rows = rng.standard_normal((4000, 200)) * 0.15 + direction
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = {
        n: np.mean(
            [
                similarities(rows[i : i + n].astype(np.float32), direction[None].astype(np.float32))
                for i in range(0, 1600, n)
            ]
        )
        for n in (4, 16)
    }
    assert scaled(float(found[16]), 4) == pytest.approx(found[4], abs=0.01)


def test_members_that_do_not_mix_answer_alone_or_not_at_all() -> None:
    gate = Gate(floor=0.1, alone=(0.8, 0.8, 0.8), mixes=(True, False, True))
    assert gate_weights(np.array([0.3, 0.85, 0.2]), gate).tolist() == [0.0, 1.0, 0.0]
    assert not gate_weights(np.array([0.3, 0.7, 0.2]), gate).any()
    shares = gate_weights(np.array([0.5, 0.45, 0.4]), gate)
    assert shares[1] == 0.0
    assert shares.sum() == pytest.approx(gate.mass)
    with pytest.raises(InvalidRequestError, match=r"gate\.mixes"):
        gate_weights(np.array([0.5, 0.5]), Gate(floor=0.1, mixes=(True,)))


def test_more_samples_of_a_task_that_no_member_knows_do_not_lose_its_blend() -> None:
    gate = Gate(floor=0.27, alone=(0.9, 0.9), mass=0.6, temperature=0.1)
    for samples in (16, 64, 1000):
        assert gate_weights(np.array([0.4, 0.1]), gate, samples).sum() == pytest.approx(0.6)
        assert not gate_weights(np.array([0.26, 0.1]), gate, samples).any()
