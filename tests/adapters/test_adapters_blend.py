from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_tools import TARGETS, independent_pool, lora, shared_pool

from crayon.adapters import LoraTensors, Pool, blend, blend_vector, check_weights, truncate
from crayon.adapters.shared_a import join_b
from crayon.errors import AdapterError, InvalidRequestError

SHARED, SEEDED, INDEPENDENT = shared_pool(4), shared_pool(4, a_seed=1), independent_pool((1, 3, 2, 5))
POOLS = pytest.mark.parametrize("pool", [SHARED, SEEDED, INDEPENDENT], ids=["shared", "seeded", "independent"])
QUICK = settings(max_examples=40, deadline=None)
# What four members' weights can be; their absolute values sum to at most 4.
some_weights = st.lists(st.floats(-1.0, 1.0, width=32), min_size=4, max_size=4)


def delta(adapter: LoraTensors, target: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The change of a weight, computed in double precision; zero where the adapter leaves it alone."""
    if target not in adapter.tensors:
        shape = next((t.outputs, t.inputs) for t in TARGETS if t.name == target)
        return np.zeros(shape)
    a, b = adapter.tensors[target]
    return adapter.scale * (b.astype(np.float64) @ a.astype(np.float64))


@POOLS
@QUICK
@given(weights=some_weights)
def test_a_blend_adds_exactly_the_weighted_sum(pool: Pool, weights: list[float]) -> None:
    made = blend(pool, weights)
    for target in TARGETS:
        expected = sum(w * delta(pool.member(k), target.name) for k, w in enumerate(weights))
        assert delta(made, target.name) == pytest.approx(expected, abs=2e-4)


@POOLS
def test_a_single_weight_of_one_is_that_member(pool: Pool) -> None:
    for k in range(4):
        made, member = blend(pool, np.eye(4)[k]), pool.member(k)
        assert made.rank == member.rank
        for name in member.tensors:
            assert made.delta(name) == pytest.approx(member.delta(name), rel=1e-5, abs=1e-5)


def test_sharing_a_keeps_the_rank_and_independent_ranks_add_up() -> None:
    assert blend(SHARED, [0.25] * 4).rank == 3
    assert blend(INDEPENDENT, [0.25] * 4).rank == 1 + 3 + 2 + 5
    assert blend(INDEPENDENT, [0.5, 0.0, 0.5, 0.0]).rank == 3


@POOLS
def test_all_zero_is_the_base(pool: Pool) -> None:
    made = blend(pool, [0.0] * 4)
    assert made.tensors
    assert all(not made.delta(name).any() for name in made.tensors)


def test_the_vector_is_the_weighted_sum_of_rows() -> None:
    vector = blend_vector(SHARED, [0.5, 0.25, 0.0, -0.25])
    assert vector.dtype == np.float32
    assert vector == pytest.approx(np.array([0.5, 0.25, 0.0, -0.25]) @ SHARED.b.astype(np.float64), abs=1e-5)
    made = blend(SHARED, [0.5, 0.25, 0.0, -0.25])
    assert np.array_equal(join_b({name: b for name, (_, b) in made.tensors.items()}, TARGETS, 3), vector)
    with pytest.raises(AdapterError, match="independent"):
        blend_vector(INDEPENDENT, [0.25] * 4)


@POOLS
@pytest.mark.parametrize("make", [blend, blend_vector, check_weights])
@pytest.mark.parametrize(
    ("weights", "field", "message"),
    [
        ([0.5] * 3, "blend.weights", r"are 3, the pool tiny-pool@\w+ has 4 members"),
        ([], "blend.weights", "are 0"),
        ([0.5, float("nan"), 0.0, 0.0], "blend.weights[1]", "finite"),
        ([float("-inf"), 0.0, 0.0, 0.0], "blend.weights[0]", "finite"),
        ([1e6, 0.0, 0.0, 0.0], "blend.weights", r"sum to 1e\+06 .*, at most 4"),
        ([2.0, -2.0, 0.5, 0.0], "blend.weights", r"sum to 4\.5"),
        ([1e308, 1e308, -1e308, 0.0], "blend.weights", "sum to"),
    ],
)
def test_weights_that_make_no_blend_are_refused(
    pool: Pool, make: Any, weights: list[float], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        make(pool, weights)
    assert caught.value.field == field


def test_weights_may_cancel_out_or_be_subtracted() -> None:
    assert check_weights(SHARED, [1.0, -1.0, 0.0, 0.0]).tolist() == [1.0, -1.0, 0.0, 0.0]
    assert check_weights(SHARED, np.array([4.0, 0.0, 0.0, 0.0])).dtype == np.float32


# -- truncation


@QUICK
@given(seed=st.integers(0, 10_000), full=st.integers(1, 9), rank=st.integers(1, 10))
def test_truncation_is_the_best_and_says_what_it_loses(seed: int, full: int, rank: int) -> None:
    whole = lora(np.random.default_rng(seed), full)
    small, lost = truncate(whole, rank)
    # No matrix here has more than 6 outputs: a larger rank would hold nothing.
    assert small.rank == (full if full <= rank else min(rank, 6))
    gone = total = best = 0.0
    for target in TARGETS:
        before, after = delta(whole, target.name), delta(small, target.name)
        gone += float(np.square(before - after).sum())
        total += float(np.square(before).sum())
        best += float(np.square(np.linalg.svd(before, compute_uv=False)[rank:]).sum())
    assert lost == pytest.approx(best / total, abs=1e-6)
    assert gone / total == pytest.approx(lost, abs=1e-5)


def test_truncating_what_is_small_enough_changes_nothing() -> None:
    whole = lora(np.random.default_rng(0), 2)
    small, lost = truncate(whole, 2)
    assert lost == pytest.approx(0.0, abs=1e-12)
    assert all(small.tensors[name][0] is a for name, (a, _) in whole.tensors.items())


def test_side_by_side_copies_lose_nothing_when_truncated() -> None:
    member = lora(np.random.default_rng(0), 2)
    double = LoraTensors(
        {name: (np.concatenate([a, a]), np.concatenate([b, b], axis=1)) for name, (a, b) in member.tensors.items()}
    )
    small, lost = truncate(double, 2)
    assert lost < 1e-12
    for name in member.tensors:
        assert small.delta(name) == pytest.approx(member.delta(name), abs=1e-4)


def test_nothing_truncated_is_nothing_lost() -> None:
    small, lost = truncate(blend(INDEPENDENT, [0.0] * 4), 1)
    assert lost == 0.0
    assert small.rank == 1
    with pytest.raises(AdapterError, match="at least rank 1"):
        truncate(small, 0)
