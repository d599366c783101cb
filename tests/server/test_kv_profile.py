"""The probable use of the cache: cases worked out by hand, and bounds that hold for any requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.errors import ConfigError
from crayon.server.prediction import Rule
from crayon.server.scheduler.kv import KvForecast
from crayon.server.scheduler.kv_profile import KvProfile
from crayon.server.scheduler.lengths import MIN_SEEN, Curve, Lengths

REQUESTS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=12)
LEARNT = st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=100)


def learnt(answers: list[tuple[int, bool]], rule: Rule = Rule.QUANTILE) -> Lengths:
    lengths = Lengths(rule)
    for generated, ended in answers:
        lengths.observe(generated, ended=ended)
    return lengths


def profile(
    requests: list[tuple[int, int, int]], lengths: Lengths, capacity: int = 1000, caution: float = 2.0
) -> KvProfile:
    ahead = KvProfile(capacity, lengths, caution=caution)
    if requests:
        ahead.add(*zip(*requests, strict=True))
    return ahead


ONE_OR_THREE = learnt([(1, True), (3, True)] * MIN_SEEN)


def test_shares_by_hand() -> None:
    curve = Curve([1, 3, 3, 4], [True, True, True, False])
    shares = curve.shares(np.array([0, 1, 3, 4]), np.array([0, 1, 2, 3]))
    assert shares.tolist() == pytest.approx(
        np.array([[1, 3 / 4, 3 / 4, 1 / 4], [1, 1, 1 / 3, 1 / 3], [1, 1, 1, 1], [1, 1, 1, 1]])
    )


def test_where_nobody_got_nothing_is_known() -> None:
    assert Curve([2], [True]).shares(np.array([2, 9]), np.array([0, 5])).tolist() == [[1, 1], [1, 1]]


def test_the_mean_by_hand() -> None:
    # Forty requests of 10 tokens: 40 * 11 at the first step; half of them go on, 20 * 12 and 20 * 13.
    lengths = learnt([(1, True), (3, True)] * 512)
    assert profile([(10, 0, 9)] * 40, lengths, caution=0).peak == pytest.approx(440, abs=1)
    assert profile([(1, 0, 9)] * 40, lengths, caution=0).peak == pytest.approx(80, abs=1)  # 80, 60, 80


def test_caution_is_standard_deviations() -> None:
    # 100 requests, half of which hold 4 at the third step: 200 on average, with a deviation of 10 * 4 / 2.
    lengths = learnt([(1, True), (3, True)] * 512)
    for caution in (1, 2, 3):
        assert profile([(1, 0, 9)] * 100, lengths, caution=caution).peak == pytest.approx(200 + 20 * caution, abs=1)


def test_no_more_is_expected_than_if_all_got_all_their_tokens() -> None:
    assert profile([(10, 0, 3)], ONE_OR_THREE, caution=50).peak == 13


def test_a_request_alone_must_only_fit_at_all() -> None:
    assert profile([], ONE_OR_THREE, capacity=100).fits(60, 0, 40)
    assert not profile([], ONE_OR_THREE, capacity=100).fits(60, 0, 41)


def test_ends_of_others_make_room() -> None:
    running = [(5, 0, 50)] * 40
    by_mean = KvForecast(290, [5] * 40, [2] * 40)
    assert not by_mean.fits(10, 50)
    lengths = learnt([(1, True)] * 200 + [(3, True)] * 200)
    assert profile(running, lengths, capacity=290, caution=1).fits(10, 0, 50)


def test_groups_are_expected_to_do_as_they_did() -> None:
    lengths = Lengths()
    for _ in range(MIN_SEEN):
        lengths.observe(1, ended=True, group="short")
        lengths.observe(50, ended=True, group="long")
    ahead = KvProfile(200, lengths)
    ahead.add([10] * 10, [0] * 10, [60] * 10, group="short")
    assert ahead.peak == 110
    assert ahead.peak_with(10, 0, 60, group="short") == 121
    assert ahead.peak_with(60, 0, 60, group="long") == 171
    assert ahead.peak_with(60, 0, 140, group="long") == 171
    assert ahead.peak_with(160, 0, 60, group="long") > 200


@pytest.mark.parametrize(("key", "value"), [("caution", -1), ("caution", float("nan")), ("capacity", 0)])
def test_settings_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        KvProfile(**{"capacity": 10, "lengths": Lengths(), key: value})  # type: ignore[arg-type]  # wrong on purpose


@settings(deadline=None)
@given(REQUESTS)
def test_what_is_not_known_is_reserved_in_full(requests: list[tuple[int, int, int]]) -> None:
    held, _, most = zip(*requests, strict=True)
    exact = KvForecast(5000, held, most).peak
    for lengths in (Lengths(), learnt([(1, True)] * 40, Rule.WORST)):
        assert exact <= profile(requests, lengths, 5000).peak <= sum(held) + sum(most)


@settings(deadline=None)
@given(REQUESTS, LEARNT, st.floats(0, 4))
def test_caution_and_learning_stay_within_the_worst_case(
    requests: list[tuple[int, int, int]], answers: list[tuple[int, bool]], caution: float
) -> None:
    lengths = learnt(answers)
    peak = profile(requests, lengths, 5000, caution).peak
    assert sum(held + 1 for held, _, _ in requests) <= peak <= profile(requests, Lengths(), 5000).peak
    assert peak <= profile(requests, lengths, 5000, caution + 1).peak


@settings(deadline=None)
@given(REQUESTS, REQUESTS, LEARNT)
def test_adding_is_the_same_as_having_had(
    first: list[tuple[int, int, int]], more: list[tuple[int, int, int]], answers: list[tuple[int, bool]]
) -> None:
    lengths = learnt(answers)
    ahead = profile(first, lengths)
    for i, request in enumerate(more, 1):
        expected = profile([*first, *more[:i]], lengths).peak
        assert ahead.peak_with(*request) == pytest.approx(expected, abs=1)
        ahead.add(*request)
        assert ahead.peak == pytest.approx(expected, abs=1)
    assert len(ahead) == len(first) + len(more)
