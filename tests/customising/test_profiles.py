from __future__ import annotations

import numpy as np
import pytest

from crayon.adapters.gate import Gate
from crayon.customising.profiles import MIN_PART, make_profiles, split
from crayon.customising.space import Space
from crayon.router.scope import ScopeGate

DIMENSIONS, MEMBERS = 256, ("banking", "home", "work", "travel", "base")
KEYS = np.eye(len(MEMBERS), DIMENSIONS, dtype=np.float32)
GATE = Gate(temperature=0.1, sharpen=0.9, floor=0.3)


def cloud(seed: int, n: int, member: int | None, noise: float = 0.04) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(scale=noise, size=(n, DIMENSIONS))
    if member is not None:
        rows[:, member] += 1.0
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


BACKGROUND = cloud(99, 40, None)


def profiles_of(*clouds: np.ndarray):
    return make_profiles(np.concatenate(clouds), BACKGROUND, KEYS, MEMBERS, GATE)


def test_one_task_is_one_profile_with_the_gates_weights():
    (profile,), parts = profiles_of(cloud(0, 16, 1))
    assert profile.name == "home"
    assert profile.samples == 16
    assert profile.weights == (0.0, 1.0, 0.0, 0.0, 0.0)
    assert profile.similarity[1] == max(profile.similarity) > 0.9
    assert not parts.any()
    assert np.linalg.norm(profile.centre) == pytest.approx(1.0, abs=1e-5)


def test_two_tasks_are_two_profiles_the_larger_first():
    own, parts = profiles_of(cloud(0, 6, 0), cloud(1, 10, 2))
    assert [(profile.name, profile.samples) for profile in own] == [("work", 10), ("banking", 6)]
    assert parts.tolist() == [1] * 6 + [0] * 10
    gate = ScopeGate([profile.scope() for profile in own])
    assert all(gate.judge(row).name == "work" and gate.judge(row).inside for row in cloud(5, 20, 2))
    assert all(gate.judge(row).name == "banking" for row in cloud(6, 20, 0))
    assert sum(gate.judge(row).inside for row in cloud(7, 20, 3)) <= 4


def test_four_tasks_are_found_and_five_are_not_split_into_five():
    assert len(profiles_of(*(cloud(i, 8, i) for i in range(4)))[0]) == 4
    assert len(profiles_of(*(cloud(i, 8, i) for i in range(5)))[0]) <= 4


def test_a_few_strays_are_no_task_of_their_own():
    own, _ = profiles_of(cloud(0, 12, 0), cloud(1, MIN_PART - 1, 2))
    assert len(own) == 1


def test_scattered_samples_of_one_task_stay_together():
    for seed in range(10):
        assert len(profiles_of(cloud(seed, 16, 0, noise=0.12))[0]) == 1
        assert len(profiles_of(cloud(seed, 16, None))[0]) == 1


def test_tasks_nearest_to_one_member_are_not_split():
    rng = np.random.default_rng(0)
    first, second = cloud(0, 8, 0), cloud(1, 8, 0)
    first[:, 10] += 1.2
    second[:, 11] += 1.2
    vectors = np.concatenate([first, second])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert not split(vectors[rng.permutation(16)], KEYS).any()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_samples_make_a_profile_that_holds_them(n):
    vectors = cloud(0, n, 3)
    (profile,), _ = profiles_of(vectors)
    scope = profile.scope()
    assert all(scope.score(row) >= scope.threshold - 1e-5 for row in vectors)
    assert sum(scope.score(row) >= scope.threshold for row in cloud(2, 40, None)) <= 12
    assert all(scope.score(row) >= scope.threshold for row in cloud(3, 20, 3))


def test_where_no_member_fits_the_base_is_kept():
    (profile,), _ = profiles_of(cloud(0, 16, 20))
    assert not profile.fits
    assert set(profile.weights) == {0.0}


def test_one_sample_repeated_is_no_error():
    (profile,), _ = profiles_of(np.repeat(cloud(0, 1, 1), 12, axis=0))
    assert profile.samples == 12


def test_a_profile_is_never_called_base():
    (profile,), _ = profiles_of(cloud(0, 8, 4))
    assert profile.name == "base-2"


def test_the_sink_trap_a_common_part_makes_everything_alike_until_it_is_subtracted():
    """What all states share is far longer than what tells them apart: the centre must go first."""
    rng = np.random.default_rng(0)
    common = 200.0 * rng.normal(size=DIMENSIONS)
    states = np.concatenate([cloud(0, 8, 0), cloud(1, 8, 2)]) + common
    raw = states / np.linalg.norm(states, axis=1, keepdims=True)
    assert (raw @ raw.T).min() > 0.999
    centred = Space("", 0, common, None).place(states)
    own, _ = make_profiles(centred, BACKGROUND, KEYS, MEMBERS, GATE)
    assert {profile.name for profile in own} == {"banking", "work"}
