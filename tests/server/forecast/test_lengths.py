"""What is predicted of answers' lengths: curves worked out by hand, and what holds for any answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.errors import ConfigError
from crayon.server.forecast.lengths import MIN_SEEN, LengthModel, Lengths, SurvivalCurve
from crayon.server.forecast.rules import LengthRule

ANSWERS = st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=120)


def learnt(rule: str, answers: list[tuple[int, bool]], **more: float) -> Lengths:
    lengths = Lengths(rule, **more)  # type: ignore[arg-type]  # keywords of one test each
    for generated, ended in answers:
        lengths.observe(generated, ended=ended)
    return lengths


def drawn(rule: str, mean: float, spread: float = 0.7) -> Lengths:
    draws = np.random.default_rng(1).lognormal(np.log(mean) - spread**2 / 2, spread, 500)
    return learnt(rule, [(int(draw) + 1, True) for draw in draws])


# -- the curve, by hand


def test_cut_answers_count_as_those_that_would_have_got_longer() -> None:
    # 5 at risk at 3, one ends; one is cut at 5; of 3 at risk at 7 one ends (the other was cut there); then the last.
    curve = SurvivalCurve([3, 5, 7, 7, 9], [True, False, True, False, True])
    steps = [curve.share(tokens) for tokens in (0, 2, 3, 6, 7, 8, 9, 99)]
    assert steps == pytest.approx([1, 1, 4 / 5, 4 / 5, 8 / 15, 8 / 15, 0, 0])
    assert curve.total == pytest.approx(3 * 1 + 4 * 4 / 5 + 2 * 8 / 15)


def test_a_curve_counts_by_weight() -> None:
    assert SurvivalCurve([1, 2], [True, True], [3, 1]).share(1) == pytest.approx(1 / 4)


def test_the_mean_is_of_those_that_got_this_far() -> None:
    curve = SurvivalCurve([2, 4, 9], [True, True, True])
    assert curve.mean(0, 100) == pytest.approx(5)
    assert curve.mean(1, 100) == pytest.approx(4)
    assert curve.mean(2, 100) == pytest.approx((2 + 7) / 2)
    assert curve.mean(2, 3) == pytest.approx((2 + 3) / 2)
    assert curve.mean(5, 100) == pytest.approx(4)


def test_the_quantile_is_of_those_that_got_this_far() -> None:
    curve = SurvivalCurve([*range(1, 11)], [True] * 10)
    assert [curve.quantile(0, 100, q) for q in (0.1, 0.5, 0.9, 0.95, 1)] == [1, 5, 9, 10, 10]
    assert curve.quantile(5, 100, 0.6) == 3
    assert curve.quantile(5, 2, 0.6) == 2


@pytest.mark.parametrize("ended", [True, False])
def test_beyond_the_longest_answer_the_worst_is_expected(ended: bool) -> None:
    curve = SurvivalCurve([2, 4], [True, ended])
    assert curve.mean(4, 50) == 50
    assert curve.quantile(4, 50, 0.5) == 50


def test_answers_that_were_all_cut_say_nothing() -> None:
    curve = SurvivalCurve([5, 5, 8], [False, False, False])
    assert (curve.mean(0, 20), curve.quantile(0, 20, 0.9)) == (20, 20)


# -- the rules


@pytest.mark.parametrize("rule", LengthRule)
def test_the_worst_is_expected_until_enough_was_seen(rule: LengthRule) -> None:
    lengths = learnt(rule, [(10, True)] * (MIN_SEEN - 1))
    assert lengths.remaining(0, 500) == 500
    lengths.observe(10, ended=True)
    assert lengths.remaining(0, 500) == (500 if rule is LengthRule.WORST else 10)


def test_each_rule_in_a_case_worked_out_by_hand() -> None:
    answers = [(10, True)] * 30 + [(100, True)] * 10
    expected = {LengthRule.WORST: [400, 380], LengthRule.MEAN: [33, 80]}
    for rule, values in expected.items():
        lengths = learnt(rule, answers, half_life=10**6)
        assert [lengths.remaining(0, 400), lengths.remaining(20, 380)] == values


def test_answers_cut_at_a_low_limit_are_not_taken_for_short_ones() -> None:
    answers = [(10, True), (50, False)] * 50
    assert learnt(LengthRule.MEAN, answers).remaining(10, 50) == 50
    as_if_ended = [(generated, True) for generated, _ in answers]
    assert learnt(LengthRule.MEAN, as_if_ended).remaining(10, 50) == 40


def test_an_answer_above_the_mean_is_expected_to_go_on() -> None:
    assert drawn(LengthRule.MEAN, 200).remaining(300, 4000) > 50


def test_a_drift_is_followed() -> None:
    lengths = learnt(LengthRule.MEAN, [(20, True)] * 400, half_life=40)
    assert lengths.remaining(0, 1000) == 20
    for _ in range(80):
        lengths.observe(100, ended=True)
    # A half-life is 40 answers and 160 are kept: old ones weigh (1/4 - 1/16) of (1 - 1/16).
    assert lengths.remaining(0, 1000) == 20 * 0.2 + 100 * 0.8
    for _ in range(80):
        lengths.observe(100, ended=True)
    assert lengths.remaining(0, 1000) == 100  # what is four half-lives old is gone


def test_a_group_is_predicted_by_its_own_answers_once_there_are_enough() -> None:
    lengths = Lengths(LengthRule.MEAN)
    for _ in range(MIN_SEEN):
        lengths.observe(100, ended=True, group="long")
    assert lengths.remaining(0, 500, group="short") == 100
    for _ in range(MIN_SEEN):
        lengths.observe(10, ended=True, group="short")
    assert lengths.remaining(0, 500, group="short") == 10
    assert lengths.remaining(0, 500, group="long") == 100
    assert 10 < lengths.remaining(0, 500) < 100


def test_groups_are_forgotten_before_memory_is_full() -> None:
    lengths = Lengths(LengthRule.MEAN)
    for name in ("old", *map(str, range(64))):
        for _ in range(MIN_SEEN):
            lengths.observe(5 if name == "old" else 50, ended=True, group=name)
    assert lengths.remaining(0, 500, group="0") == 50
    assert lengths.remaining(0, 500, group="old") == lengths.remaining(0, 500)


def test_an_answer_cut_before_its_first_token_says_nothing() -> None:
    lengths = Lengths()
    lengths.observe(0, ended=False)
    assert lengths.seen == 0


@pytest.mark.parametrize(("key", "value"), [("rule", "best"), ("half_life", 3)])
def test_settings_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        Lengths(**{key: value})  # type: ignore[arg-type]  # wrong on purpose


# -- for any answers


@settings(deadline=None)
@given(st.sampled_from(LengthRule), ANSWERS, st.integers(0, 80), st.integers(1, 80))
def test_a_prediction_is_a_number_of_tokens_that_may_come(
    rule: LengthRule, answers: list[tuple[int, bool]], generated: int, most: int
) -> None:
    model: LengthModel = learnt(rule, answers)
    left = model.remaining(generated, most)
    assert isinstance(left, int)
    assert 1 <= left <= most
    assert left <= model.remaining(generated, most + 1)
    assert left == learnt(rule, answers).remaining(generated, most)


@settings(deadline=None)
@given(ANSWERS, st.integers(0, 80))
def test_a_curve_never_rises(answers: list[tuple[int, bool]], tokens: int) -> None:
    curve = SurvivalCurve(*zip(*answers, strict=True))
    assert 1 >= curve.share(tokens) >= curve.share(tokens + 1) >= 0


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(0, 70), st.integers(1, 80))
def test_without_cuts_the_curve_is_what_was_seen(seen: list[int], generated: int, most: int) -> None:
    curve = SurvivalCurve(seen, [True] * len(seen))
    left = [length - generated for length in seen if length > generated]
    expected = sum(min(tokens, most) for tokens in left) / len(left) if left else most
    assert curve.mean(generated, most) == pytest.approx(expected)
    for q in (0.1, 0.5, 0.9, 1):
        within = sorted(left)[-int(-(q * len(left)) // 1) - 1] if left else most
        assert curve.quantile(generated, most, q) == min(within, most)


def test_a_very_long_answer_counts_as_cut() -> None:
    lengths = learnt(LengthRule.MEAN, [(100_000, True)] * MIN_SEEN)
    assert lengths.remaining(0, 30_000) == 30_000
