from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.errors import InvalidRequestError
from crayon.router import (
    Best,
    Case,
    MaxDeviceError,
    MinQuality,
    Prior,
    Priors,
    ServerShare,
    calibrate,
    curve,
    fit_device_map,
    random_curve,
)

FEW = 10  # bootstrap rounds, where no interval is looked at


def logistic(x):
    return 1 / (1 + np.exp(-x))


def draw(n, *, profile=None, server=0.8, slope=2.0, seed=0, inside=1.0):
    """Cases whose device is right with chance logistic(slope * sure) and whose server is right at a fixed rate."""
    rng = np.random.default_rng(seed)
    sure = rng.normal(0, 1, n)
    right = rng.random(n) < logistic(slope * sure)
    answered = rng.random(n) < server
    return [
        Case(profile=profile, inside_score=inside, sure=float(s), device_right=float(r), server_right=float(a))
        for s, r, a in zip(sure, right, answered, strict=True)
    ]


def share_of(found, cases):
    return np.mean([found.sends(found.benefit(c.profile, c.inside_score, c.sure)) for c in cases])


def test_the_map_finds_the_curve_that_the_cases_were_drawn_from():
    cases = draw(4000, slope=1.5)
    fitted = fit_device_map([c.sure for c in cases], [c.device_right for c in cases], Prior())
    for sure in (-2.0, 0.0, 1.0):
        assert fitted.right(sure) == pytest.approx(logistic(1.5 * sure), abs=0.03)
    assert fitted.right(fitted.sure_at(0.7)) == pytest.approx(0.7)


@given(
    st.lists(st.tuples(st.floats(-20, 0), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=40),
    st.lists(st.floats(-50, 1), min_size=2, max_size=5),
)
def test_the_map_never_falls_and_stays_a_probability(cases, asked):
    fitted = fit_device_map([s for s, _ in cases], [r for _, r in cases], Prior())
    chances = [fitted.right(sure) for sure in sorted(asked)]
    assert all(0 <= chance <= 1 for chance in chances)
    assert chances == sorted(chances)


@pytest.mark.parametrize(
    ("sure", "right"),
    [
        ([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0], [1, 1, 1, 0, 0, 0, 0]),  # 7 cases
        ([-float(i) for i in range(10)], [1] * 10),  # one class
        ([-float(i) for i in range(10)], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]),  # the surer, the wronger
        ([-1.0] * 10, [0, 1] * 5),  # one value
        ([None] * 10, [0, 1] * 5),  # nothing decoded
        ([-math.inf] * 10, [0, 1] * 5),
    ],
)
def test_a_signal_that_tells_nothing_leaves_the_mean_of_the_prior_and_the_cases(sure, right):
    fitted = fit_device_map(sure, right, Prior(3, 1))
    assert fitted.slope == 0
    assert fitted.right(-0.1) == fitted.right(None) == (3 + sum(right)) / (4 + len(right))


def test_a_separable_signal_is_fitted_without_running_away():
    fitted = fit_device_map([-1.0] * 10 + [-3.0] * 10, [1] * 10 + [0] * 10, Prior())
    assert 0.8 < fitted.right(-1.0) < 1
    assert fitted.right(-math.inf) == 0
    assert fitted.right(math.nan) == fitted.mean


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 80), st.floats(0.05, 0.95), st.integers(0, 10**6), st.floats(0, 1))
def test_nothing_is_sent_where_the_server_is_estimated_to_lose(n, server, seed, share):
    cases = draw(n, server=server, seed=seed)
    for target in (Best(), ServerShare(share)):
        found = calibrate(cases, target, rounds=FEW)
        assert found.lam >= 0
        for case in cases:
            benefit = found.benefit(None, 0.0, case.sure)
            assert not (benefit <= 0 and found.sends(benefit, coin=0.0))


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 80), st.floats(0, 1), st.integers(0, 10**6))
def test_a_share_is_met_exactly_or_as_far_as_sending_gains(n, share, seed):
    cases = draw(n, server=0.9, seed=seed)
    found = calibrate(cases, ServerShare(share), rounds=FEW)
    most = calibrate(cases, Best(), rounds=FEW).report.share
    assert found.report.share == pytest.approx(min(share, most))
    assert share_of(found, cases) <= found.report.share + 1e-9
    assert share_of(found, cases) >= found.report.share - 1 / n - 1e-9
    assert bool(found.report.notes) == (most < share)


def test_a_share_within_many_equal_gains_is_met_by_tossing_a_coin():
    cases = [replace(case, sure=None) for case in draw(100, server=0.9)]
    found = calibrate(cases, ServerShare(0.3), rounds=FEW)
    rng = np.random.default_rng(0)
    benefit = found.benefit(None)
    assert found.rules[0].hardness is None
    assert found.tie == pytest.approx(0.3)
    assert np.mean([found.sends(benefit, coin=rng.random()) for _ in range(5000)]) == pytest.approx(0.3, abs=0.02)
    assert not found.sends(benefit)


@given(st.floats(0, 0.3), st.floats(-4, 4))
def test_the_hardness_threshold_says_the_same_as_the_gain(lam, sure):
    found = CALIBRATED.with_lam(lam)
    for rule in found.rules:
        benefit = found.benefit(rule.profile, 1.0, sure)
        if abs(benefit - lam) > 1e-9:
            assert rule.hardness is not None
            assert found.sends(benefit) == (sure < rule.hardness)


CALIBRATED = calibrate(
    [*draw(200, profile="bank", server=0.9, seed=1), *draw(200, profile="travel", server=0.6, seed=2)], rounds=FEW
)


def test_one_lam_sets_all_profiles_jointly_and_a_better_server_gets_more():
    bank, travel = CALIBRATED.rules
    assert bank.server > travel.server
    assert bank.hardness > travel.hardness
    # Both thresholds lie where the gain is the same.
    found = CALIBRATED.with_lam(0.2)
    gains = [found.benefit(rule.profile, 1.0, rule.hardness) for rule in found.rules]
    assert gains == pytest.approx([0.2, 0.2])


def test_a_profile_on_which_the_device_beats_the_server_sends_nothing_and_another_all_it_can():
    banking = [replace(c, sure=None) for c in draw(100, profile="bank", slope=0, server=0.2, seed=3)]
    credit = [replace(c, sure=None) for c in draw(100, profile="credit", slope=0, server=0.9, seed=4)]
    found = calibrate([*banking, *credit], rounds=FEW)
    assert not found.sends(found.benefit("bank", 1.0))
    assert found.sends(found.benefit("credit", 1.0))
    assert found.report.share == 0.5


def test_outside_its_scope_a_query_is_judged_by_the_base_and_the_server_there():
    inside = draw(100, profile="bank", slope=4, server=0.5, seed=5)
    outside = [Case(profile="bank", inside_score=-0.3, device_right=i % 5 == 0, server_right=1.0) for i in range(50)]
    found = calibrate([*inside, *outside], rounds=FEW)
    rule = found.rule("bank", -0.3)
    assert rule is found.outside
    assert rule.server == pytest.approx(51 / 52)
    assert rule.device.mean == pytest.approx(11 / 52)
    assert found.sends(found.benefit("bank", -0.3))
    assert not found.sends(found.benefit("bank", 0.1, 3.0))


def test_the_scope_moves_to_where_own_and_other_queries_part():
    rng = np.random.default_rng(6)
    cases = [
        Case(profile="bank", inside_score=float(score), device_right=1.0, own=own)
        for own, centre in ((True, -0.1), (False, -0.5))
        for score in rng.uniform(centre - 0.15, centre + 0.15, 40)
    ]
    assert -0.35 < calibrate(cases, rounds=FEW).rules[0].scope < -0.25
    unknown = [replace(case, own=None) for case in cases]
    assert calibrate(unknown, rounds=FEW).rules[0].scope == 0


def test_a_profile_without_cases_stands_on_the_priors():
    priors = Priors(device=Prior(3, 1), server=Prior(1, 1), profiles={"law": Prior(9, 1)})
    found = calibrate(draw(20, profile="bank"), priors=priors, profiles=["law", "art"], rounds=FEW)
    assert found.benefit("law", 1.0) == pytest.approx(0.9 - 0.75)
    assert found.benefit("art", 1.0) == pytest.approx(0.5 - 0.75)
    assert found.rule("law", 1.0).server_n == 0
    with pytest.raises(InvalidRequestError, match="was not calibrated"):
        found.benefit("music", 1.0)


def test_the_least_share_that_reaches_a_quality_is_sent():
    cases = draw(600, server=0.85, seed=7)
    shares = [calibrate(cases, MinQuality(q), rounds=FEW).report.share for q in (0.3, 0.8, 0.95, 1.0)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    found = calibrate(cases, MinQuality(1.0))
    fresh = draw(4000, server=0.85, seed=8)
    right = np.mean([c.server_right if found.sends(found.benefit(None, 0, c.sure)) else c.device_right for c in fresh])
    assert right == pytest.approx(0.85, abs=0.04)
    assert found.report.accuracy.low <= right <= found.report.accuracy.high
    assert found.report.gain.low > 0
    assert found.report.random == pytest.approx(
        found.report.device + found.report.share * (found.report.server - found.report.device)
    )


def mixed(n, seed):
    """Four tasks with the accuracies and AUROCs of a 135M device and its 1.5B server, each on a scale of its own."""
    rng = np.random.default_rng(seed)
    tasks = [  # profile, device, server, slope, where its signal lies
        ("banking", 0.84, 0.74, 3.0, -0.2),
        ("credit", 0.36, 0.70, 1.0, -1.0),
        ("travel", 0.60, 0.88, 2.5, -0.4),
        ("science", 0.37, 0.64, 0.1, -0.1),
    ]
    cases = []
    for profile, device, server, slope, place in tasks:
        for z in rng.normal(0, 1, n):
            right = rng.random() < logistic(slope * z + math.log(device / (1 - device)) * (1 + slope**2 / 8))
            answered = float(rng.random() < server)
            sure = float(place + z / 10)
            cases.append(
                Case(profile=profile, inside_score=0.1, sure=sure, device_right=float(right), server_right=answered)
            )
    return cases


def test_on_tasks_of_different_scales_one_gain_beats_one_threshold_and_never_falls_below_the_device():
    fresh = mixed(2500, seed=22)
    device, server = [c.device_right for c in fresh], [c.server_right for c in fresh]
    found = calibrate(mixed(100, seed=21), ServerShare(0.5), rounds=FEW)
    need = np.array([found.benefit(c.profile, c.inside_score, c.sure) for c in fresh])
    joint, plain = curve(device, server, need), curve(device, server, [-c.sure for c in fresh])
    straight = random_curve(device, server)
    for share in (0.2, 0.5):
        assert joint.at(share) > plain.at(share) + 0.02
        assert joint.at(share) > straight.at(share) + 0.03
    sent = np.array([found.sends(gain) for gain in need])
    assert sent.mean() == pytest.approx(0.5, abs=0.05)
    for profile in ("banking", "credit", "travel", "science"):
        own = np.array([c.profile == profile for c in fresh])
        alone = np.mean(np.array(device)[own])
        assert np.mean(np.where(sent, server, device)[own]) > alone - 0.01


def test_agreement_with_the_server_stands_in_for_labels():
    cases = [replace(case, server_right=1.0) for case in draw(200, seed=9)]
    found = calibrate(cases, MinQuality(0.9), rounds=FEW)
    assert found.report.server == 1
    assert 0 < found.report.share < 0.6


def test_a_quality_out_of_reach_is_refused_with_what_is_in_reach():
    # The server is far better, but it is believed to lose: what the prior says is stronger than few answers.
    cases = draw(40, server=1.0, seed=10)
    with pytest.raises(InvalidRequestError, match=r"at most \d+\.\d% is") as caught:
        calibrate(cases, MinQuality(1.0), Priors(server=Prior(1, 1000)), rounds=FEW)
    assert caught.value.field == "target.min_quality"


def test_the_promise_on_device_errors_is_kept():
    """200 resamplings: the true error rate among what the device answers is above the promised one in 10 % at most."""
    truth = draw(20_000, slope=1.5, server=0.9, seed=11)
    sure = np.array([c.sure for c in truth])
    chance = logistic(1.5 * sure)
    broken = promised = 0
    for seed in range(200):
        try:
            found = calibrate(draw(240, slope=1.5, server=0.9, seed=1000 + seed), MaxDeviceError(0.25), rounds=1)
        except InvalidRequestError:
            continue
        promised += 1
        hardness = found.rules[0].hardness
        kept = sure >= (-math.inf if hardness is None else hardness)
        broken += (1 - chance[kept]).mean() > 0.25
    assert promised > 50  # else it would be an empty test
    assert broken / 200 <= 0.1


def test_a_promise_reports_floor_and_bound():
    found = calibrate(draw(600, slope=3, server=0.95, seed=12), MaxDeviceError(0.2), rounds=FEW)
    assert found.report.bound <= 0.2
    assert 0 < found.report.floor < found.report.share < 1
    looser = calibrate(draw(600, slope=3, server=0.95, seed=12), MaxDeviceError(0.3), rounds=FEW)
    assert looser.report.share < found.report.share
    assert "wrong" in found.report.notes[0]


def test_an_impossible_promise_is_refused_with_one_that_holds():
    cases = draw(400, slope=0.5, server=0.7, seed=13)
    with pytest.raises(InvalidRequestError, match="has to send at least") as caught:
        calibrate(cases, MaxDeviceError(0.1), rounds=FEW)
    assert caught.value.field == "target.max_device_error"
    possible = float(caught.value.problem.partition("From these cases ")[2].split()[0])
    assert calibrate(cases, MaxDeviceError(possible), rounds=FEW).report.bound <= possible
    with pytest.raises(InvalidRequestError, match="needs 44 labelled queries or more"):
        calibrate(cases[:40], MaxDeviceError(0.1), rounds=FEW)
    with pytest.raises(InvalidRequestError, match="0 or 1"):
        calibrate([replace(case, device_right=0.5) for case in cases], MaxDeviceError(0.1), rounds=FEW)


@pytest.mark.parametrize("seed", range(5))
def test_where_nothing_tells_queries_apart_the_gain_over_random_is_reported_as_none(seed):
    """What one fold has too few of the others have too many of: means over the others must not order the folds."""
    cases = [replace(case, sure=None) for case in draw(60, seed=seed, server=0.9)]
    report = calibrate(cases, ServerShare(0.4), rounds=FEW).report
    assert report.gain.value == pytest.approx(0, abs=1e-9)
    assert report.accuracy.value == pytest.approx(report.random)


def test_duplicates_count_once():
    cases = [replace(case, id=f"q{i % 30}") for i, case in enumerate(draw(60))]
    found = calibrate(cases, rounds=FEW)
    assert (found.report.cases, found.report.duplicates) == (30, 30)
    assert found.rules == calibrate(cases[:30], rounds=FEW).rules


def test_the_result_is_the_same_each_time_and_in_any_order_of_the_cases():
    cases = draw(100, profile="bank")
    assert calibrate(cases, ServerShare(0.2), rounds=FEW) == calibrate(cases, ServerShare(0.2), rounds=FEW)
    assert calibrate(cases[::-1], ServerShare(0.2), rounds=FEW).lam == pytest.approx(
        calibrate(cases, ServerShare(0.2), rounds=FEW).lam, abs=1e-6
    )


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: Case(device_right=math.nan), "case.device_right"),
        (lambda: Case(device_right=1.5), "case.device_right"),
        (lambda: Case(device_right=1, server_right=math.nan), "case.server_right"),
        (lambda: Case(device_right=1, server_right=-1), "case.server_right"),
        (lambda: Case(device_right=1, inside_score=math.nan), "case.inside_score"),
        (lambda: Case(device_right=1, inside_score=math.inf), "case.inside_score"),
        (lambda: Case(device_right=1, sure="high"), "case.sure"),
        (lambda: Case(device_right=1, profile=""), "case.profile"),
        (lambda: Prior(0, 1), "prior.right"),
        (lambda: Prior(1, math.nan), "prior.wrong"),
        (lambda: ServerShare(1.1), "target.server_share"),
        (lambda: ServerShare(math.nan), "target.server_share"),
        (lambda: MinQuality(0), "target.min_quality"),
        (lambda: MaxDeviceError(0), "target.max_device_error"),
        (lambda: MaxDeviceError(0.1, 1), "target.confidence"),
        (lambda: calibrate(draw(3)), "cases"),
        (lambda: calibrate([replace(case, id="one") for case in draw(9)]), "cases"),
        (lambda: calibrate([replace(case, device_right=1) for case in draw(30)], MinQuality(0.9)), "cases"),
        (lambda: calibrate([replace(case, server_right=None) for case in draw(30)], MinQuality(0.9)), "cases"),
        (lambda: CALIBRATED.with_lam(-0.1), "lam"),
        (lambda: CALIBRATED.with_lam(math.nan), "lam"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_by_name(call, field):
    with pytest.raises(InvalidRequestError) as caught:
        call()
    assert caught.value.field == field


def test_nan_for_sure_means_not_decoded():
    assert Case(device_right=1, sure=math.nan).sure is None


def test_without_an_answer_of_the_server_the_report_says_that_the_gain_is_believed():
    found = calibrate([replace(case, server_right=None) for case in draw(30)], ServerShare(0.2), rounds=FEW)
    assert found.report.accuracy is None
    assert "believed" in found.report.notes[-1]
