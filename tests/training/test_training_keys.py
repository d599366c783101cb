"""Keys, and from which similarity on a member answers alone: small cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from crayon.customising.space import Space
from crayon.training.keys import alone_thresholds, member_head, member_keys

RNG = np.random.default_rng(0)


def test_keys_point_from_the_centre_to_each_task() -> None:
    states = [np.array([[3.0, 1.0], [1.0, 1.0]], np.float32), np.array([[-2.0, 1.0]], np.float32)]
    keys, centre = member_keys(states, None, None)
    assert centre == pytest.approx([0.0, 1.0])
    assert keys == pytest.approx(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    keys, centre = member_keys(states[:1], np.array([2.0, 0.0], np.float32), None)
    assert keys == pytest.approx(np.array([[0.0, 1.0]]))


def test_a_tight_task_answers_alone_from_higher_on_than_a_loose_one() -> None:
    direction = RNG.standard_normal(32).astype(np.float32)
    noise = RNG.standard_normal((100, 32)).astype(np.float32)
    centre = np.zeros(32, np.float32)
    tight, loose = alone_thresholds([direction + 0.2 * noise, direction + 3.0 * noise], centre, None, 0)
    assert 0.89 < tight <= 0.9
    assert 0.2 < loose < 0.85
    assert (tight, loose) == alone_thresholds([direction + 0.2 * noise, direction + 3.0 * noise], centre, None, 0)


def test_two_questions_are_enough() -> None:
    (threshold,) = alone_thresholds([np.array([[1.0, 0.1], [1.0, -0.1]], np.float32)], np.zeros(2, np.float32), None, 0)
    assert threshold == pytest.approx(0.88, abs=0.01)


def test_the_head_takes_out_what_differs_within_tasks() -> None:
    # Two tasks that differ in the first number a little; within both, the second varies widely.
    rows = RNG.standard_normal((200, 2)).astype(np.float32) * np.array([0.1, 3.0], np.float32)
    states = [rows + np.array([1.0, 0.0], np.float32), rows - np.array([1.0, 0.0], np.float32)]
    head = member_head(states)
    assert head is not None
    assert head == pytest.approx(head.T)
    assert abs(head[0, 0]) > 2 * abs(head[1, 1])
    plain, centre = member_keys(states, None, None)
    keys, _ = member_keys(states, None, head)
    single = states[0][:50]

    # The first number alone tells the tasks apart: with the head it weighs more in a vector.
    with_head, without = (Space("", 0, centre, each).place(single) for each in (head, None))
    assert np.mean(with_head @ keys[0]) > np.mean(without @ plain[0])
    assert member_head(states[:1]) is None
