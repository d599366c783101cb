"""How the states of a text's tokens become one vector: small cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from crayon.llama.encoder import add_states, mean_states, middle_layer

RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(12, 8)).astype(np.float32)  # of sink and eleven tokens


def pooled(states: np.ndarray, *cuts: int) -> np.ndarray:
    total = np.zeros(states.shape[1])
    for start, end in zip((0, *cuts), (*cuts, len(states)), strict=True):
        add_states(total, states[start:end], start)
    return mean_states(total[np.newaxis], [[0] * len(states)])[0]


def test_one_tokens_huge_state_does_not_drown_the_others() -> None:
    for token in range(1, 12):
        massive = STATES.copy()
        massive[token] *= 1e4
        assert pooled(massive) == pytest.approx(pooled(STATES), abs=1e-5)


def test_the_sink_does_not_count() -> None:
    other = STATES.copy()
    other[0] = RNG.normal(size=8)
    assert np.array_equal(pooled(other), pooled(STATES))


def test_a_token_counts_for_more_the_more_it_has_read_up_to_the_fourth() -> None:
    unit = STATES[1:] / np.linalg.norm(STATES[1:], axis=1, keepdims=True)
    weights = [1, 2, 3] + [4] * 8
    assert pooled(STATES) == pytest.approx(np.average(unit, axis=0, weights=weights), abs=1e-6)
    assert pooled(STATES[:2]) == pytest.approx(unit[0], abs=1e-6)


@pytest.mark.parametrize("cuts", [(1,), (3,), (1, 2, 9), (4, 5)])
def test_parts_add_up_to_the_whole(cuts: tuple[int, ...]) -> None:
    assert pooled(STATES, *cuts) == pytest.approx(pooled(STATES), abs=1e-12)


def test_a_text_of_nothing_but_the_sink_and_a_state_of_zeros_are_no_error() -> None:
    assert not pooled(STATES[:1]).any()
    assert np.isfinite(pooled(np.zeros((3, 8), np.float32))).all()


def test_the_layer_lies_two_fifths_up_and_is_always_one() -> None:
    assert [middle_layer(n) for n in (30, 28, 24, 18, 2, 1)] == [11, 10, 8, 6, 0, 0]
