from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.errors import ConfigError, InvalidRequestError
from crayon.router import ShareKeeper


def run(keeper, benefits):
    sent = []
    for benefit in benefits:
        sent.append(keeper.sends(benefit))
        keeper = keeper.after(benefit)
    return keeper, np.array(sent)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.6), st.floats(0, 1), st.floats(0.02, 0.3), st.integers(0, 10**6))
def test_on_steady_traffic_the_share_is_within_3_points_after_500(target, start, spread, seed):
    benefits = np.clip(np.random.default_rng(seed).normal(0.5, spread, 3500), 0.01, 0.99)
    _, sent = run(ShareKeeper(target, lam=start), benefits)
    assert sent[500:].mean() == pytest.approx(target, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 0.5), st.sampled_from([-0.25, 0.25]), st.integers(0, 10**6))
def test_after_a_shift_the_share_recovers_within_500_queries(target, shift, seed):
    rng = np.random.default_rng(seed)
    before, after = rng.normal(0.5, 0.08, 1000), rng.normal(0.5 + shift, 0.08, 2500)
    keeper, _ = run(ShareKeeper(target, lam=0.5), before)
    fixed = (after > keeper.lam).mean()
    _, sent = run(keeper, after)
    assert abs(fixed - target) > 0.08  # else there was nothing to recover from
    assert sent[500:].mean() == pytest.approx(target, abs=0.03)


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=200),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.001, 0.5),
)
def test_whatever_the_traffic_nothing_is_sent_that_gains_nothing_and_the_error_is_bounded(benefits, target, lam, step):
    keeper = ShareKeeper(target, lam=lam, step=step)
    touched = False
    for benefit in benefits:
        assert not (benefit <= 0 and keeper.sends(benefit))
        keeper = keeper.after(benefit)
        touched = touched or keeper.lam in (0.0, 1.0)
        assert 0 <= keeper.lam <= 1
    assert keeper.n == len(benefits)
    if not touched:
        assert keeper.share - target == pytest.approx((keeper.lam - lam) / (step * keeper.n), abs=1e-6)


def test_where_the_rest_would_lose_the_share_stays_below_its_target():
    benefits = np.tile([0.3, -0.2, -0.2, -0.2], 500)
    keeper, sent = run(ShareKeeper(0.5, lam=0.2), benefits)
    assert keeper.lam == 0
    assert sent.mean() == pytest.approx(0.25, abs=0.01)


def test_many_queries_of_one_gain_are_sent_at_the_target():
    _, sent = run(ShareKeeper(0.3), np.full(2000, 0.4))
    assert sent[200:].mean() == pytest.approx(0.3, abs=0.01)


def test_a_moved_threshold_is_written_down_and_the_log_is_bounded():
    keeper, _ = run(ShareKeeper(0.5, lam=0.1, log_over=0.055), np.full(40, 0.9))
    first = keeper.changes[0]
    assert (first.n, first.old, first.new, first.share) == (6, 0.1, pytest.approx(0.16), 1.0)
    assert [change.old for change in keeper.changes[1:]] == [change.new for change in keeper.changes[:-1]]
    busy, _ = run(ShareKeeper(0.5, step=0.5, log_over=0.0), np.tile([1.0, -1.0], 500))
    assert len(busy.changes) == 50
    assert busy.changes[-1].n == 1000


def test_json_brings_back_the_same_state():
    keeper, _ = run(ShareKeeper(0.5, lam=0.1), np.full(40, 0.9))
    assert keeper.changes
    assert ShareKeeper.from_dict(json.loads(json.dumps(keeper.to_dict()))) == keeper


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"lam": math.nan}, "keeper.lam"),
        ({"lam": 2}, "keeper.lam"),
        ({"n": -1}, "keeper.n"),
        ({"n": 1.0}, "keeper.n"),
        ({"sent": 10**9}, "keeper.sent"),
        ({"step": 0}, "keeper.step"),
        ({"changes": [{"n": 1}]}, "keeper.changes.new"),
        ({"changes": {}}, "keeper.changes"),
        ({"more": 1}, "keeper.more"),
    ],
)
def test_a_state_that_was_edited_is_refused_by_name(change, key):
    with pytest.raises((ConfigError, InvalidRequestError)) as caught:
        ShareKeeper.from_dict(ShareKeeper(0.5).to_dict() | change)
    assert (caught.value.key if isinstance(caught.value, ConfigError) else caught.value.field) == key


def test_wrong_numbers_are_refused():
    with pytest.raises(InvalidRequestError, match="benefit"):
        ShareKeeper(0.5).after(math.nan)
    with pytest.raises(InvalidRequestError, match=r"keeper\.target"):
        ShareKeeper(math.nan)
