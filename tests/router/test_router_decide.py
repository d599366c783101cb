"""What a record says of one query: the pure function that `ask`, `explain` and a choice share."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.completion import Reason, Source
from crayon.engine import TokenSignal
from crayon.router import (
    Best,
    Binding,
    Calibration,
    CalibrationRecord,
    ChoiceFeatures,
    Features,
    ProfileRule,
    Report,
    ScopeVerdict,
    TokenFeatures,
    Verdict,
)
from crayon.router.decide import TOKEN_SIGNALS, CalibratedRouter, decide, waits
from crayon.router.device_map import DeviceMap

MAP = DeviceMap(slope=2.0, intercept=2.0, mean=0.6, n=50)  # even odds at -1, 88 % at 0
FLAT = DeviceMap(slope=0.0, intercept=0.0, mean=0.6, n=50)
REPORT = Report(
    cases=50, duplicates=0, server_labelled=0, device=0.6, server=None, share=0.3, accuracy=None, random=None, gain=None
)


def record(*, device=MAP, server=0.7, outside=0.7, lam=0.0, tie=0.0, signal="mean_logprob", profile="bank", **more):
    rule = ProfileRule(profile, 0.0, device, server, 20).at(lam)
    away = None if outside is None else ProfileRule(None, 0.0, DeviceMap(0.0, 0.0, 0.4, 10), outside, 5)
    found = Calibration((rule,), away, lam, tie, Best(), REPORT)
    return CalibrationRecord(
        binding=Binding(base_model="a"), calibration=found, signal=signal, date="2026-11-25", **more
    )


def place(inside=True, name="bank", score=0.5, threshold=0.4):
    return ScopeVerdict(name, score, threshold if inside else score + 0.1, inside, {name: score})


def tokens(mean):
    return Features(tokens=TokenFeatures(8, mean_logprob=mean))


def test_inside_the_device_decodes_first_and_its_signal_decides():
    kept = record()
    first = decide(kept, place())
    assert (first.source, first.reason) == (None, Reason.IN_SCOPE)
    threshold = first.hardness
    assert MAP.right(threshold) == pytest.approx(0.7)
    sure = decide(kept, place(), tokens(threshold + 0.01))
    assert (sure.source, sure.reason, sure.score, sure.threshold) == (Source.DEVICE, Reason.IN_SCOPE, 0.5, 0.4)
    unsure = decide(kept, place(), tokens(threshold - 0.01))
    assert (unsure.source, unsure.reason, unsure.score) == (Source.SERVER, Reason.UNSURE, threshold - 0.01)
    assert unsure.threshold == threshold
    plain = decide(record(profile=None), None, tokens(threshold + 0.01))
    assert (plain.source, plain.reason, plain.score) == (Source.DEVICE, Reason.CONFIDENT, threshold + 0.01)


def test_outside_only_a_gain_above_lam_is_sent():
    for outside, lam, source in (
        (0.7, 0.0, "server"),
        (0.3, 0.0, "device"),
        (0.4, 0.0, "device"),
        (0.7, 0.35, "device"),
    ):
        got = decide(record(outside=outside, lam=lam), place(inside=False))
        assert got.source == source
        assert got.benefit == pytest.approx(outside - 0.4)
        if source == "server":
            assert (got.reason, got.score, got.threshold) == (Reason.OUT_OF_SCOPE, 0.5, 0.6)
        else:
            assert (got.reason, got.score) == (Reason.NO_GAIN, pytest.approx(0.4 - outside))
            assert got.score >= got.threshold


@pytest.mark.parametrize(("server", "source", "reason"), [(0.9, "server", "server_better"), (0.5, "device", "no_gain")])
def test_a_signal_that_decides_nothing_leaves_it_to_the_accuracies(server, source, reason):
    got = decide(record(device=FLAT, server=server), place())
    assert (got.source, got.reason, got.hardness) == (source, reason, None)
    assert (got.score >= got.threshold) == (source == "device")


def test_a_threshold_that_no_signal_can_reach_needs_no_decoding():
    """At -0.0, as sure as can be, the device is right at 88 %; the server at 95 %."""
    got = decide(record(server=0.95), place())
    assert (got.source, got.reason) == (Source.SERVER, Reason.SERVER_BETTER)
    assert got.benefit == pytest.approx(0.95 - MAP.right(0.0))


def test_a_signal_of_choices_waits_for_no_tokens_but_counts_where_it_was_measured():
    kept = record(signal="margin", device=DeviceMap(8.0, -4.0, 0.6, 50))
    assert not waits(kept)
    text = decide(kept, place())
    assert (text.source, text.reason) == (Source.SERVER, Reason.SERVER_BETTER)
    for margin, source in ((0.9, "device"), (0.1, "server")):
        choice = Features(choice=ChoiceFeatures(0.9, margin, 0.2, 2))
        assert decide(kept, place(), choice).source == source


def test_only_a_signal_of_tokens_waits_for_them():
    assert waits(record())
    early = record(signal="scope_margin")
    assert not waits(early)
    assert decide(early, place()).source is not None
    assert "margin" not in TOKEN_SIGNALS
    assert {"mean_logprob", "first_entropy"} <= TOKEN_SIGNALS


def test_what_was_not_calibrated_is_left_to_the_gates():
    assert decide(record(), place(name="other")) is None
    assert decide(record(), None) is None
    assert decide(record(outside=None), place(inside=False)) is None
    assert decide(record(), None, profile="bank").source is None
    router = CalibratedRouter(record(), hold=False)
    assert router.before(place()) is None
    assert router.before(place(inside=False)).source is Source.SERVER


def test_a_tie_is_decided_by_the_coin_and_a_keeper_s_lam_goes_before():
    kept = record(device=FLAT, lam=0.7 - 0.6, tie=0.25)
    assert decide(kept, place(), coin=0.2).source is Source.SERVER
    assert decide(kept, place(), coin=0.3).source is Source.DEVICE
    assert decide(kept, place(), lam=0.05, coin=0.9).source is Source.SERVER
    assert decide(kept, place(), lam=0.1 + 1e-9, coin=0.0).source is Source.DEVICE


@given(
    server=st.floats(0, 1),
    outside=st.floats(0, 1),
    lam=st.floats(0, 1),
    sure=st.one_of(st.none(), st.floats(-50, 0), st.just(math.nan), st.just(-math.inf)),
    inside=st.booleans(),
    coin=st.floats(0, 1, exclude_max=True),
)
def test_nothing_is_sent_that_gains_nothing(server, outside, lam, sure, inside, coin):
    kept = record(server=server, outside=outside, lam=lam, tie=0.5)
    features = None if sure is None else Features(tokens=TokenFeatures(3, mean_logprob=sure))
    got = decide(kept, place(inside=inside), features, coin=coin)
    if got.source is Source.SERVER:
        assert got.benefit > 0
        assert got.benefit >= lam
    if got.source is not None and got.threshold is not None and not math.isnan(got.score) and got.benefit != lam:
        assert (got.score >= got.threshold) == (got.source is Source.DEVICE or (inside and got.reason == "in_scope"))


def signal(logprob):
    return TokenSignal(logprob, 0.1, 0.9)


@pytest.mark.parametrize(("last", "verdict"), [(-0.1, Verdict.RELEASE), (-9.0, Verdict.ESCALATE)])
def test_the_gate_reads_as_many_tokens_as_the_calibration_did_and_tells_once(last, verdict):
    told = []
    router = CalibratedRouter(record(hold_tokens=3), decided=told.append)
    assert router.before(place()).source is None
    gate = router.gate(place())
    assert (gate.score, gate.tokens, gate.hold_tokens) == (None, 0, 3)
    assert gate.threshold == pytest.approx(router.before(place()).hardness)
    assert [gate.push(signal(value)) for value in (-0.2, -0.2, last)] == [Verdict.HOLD, Verdict.HOLD, verdict]
    assert gate.push(signal(0.0)) is verdict
    assert gate.finish() is verdict
    assert gate.score == pytest.approx((-0.4 + last) / 3)
    assert told == [pytest.approx(0.7 - MAP.right(gate.score))]


def test_a_short_answer_is_judged_by_what_there_is_and_an_empty_one_helps_nobody():
    router = CalibratedRouter(record())
    gate = router.gate(place())
    gate.push(signal(-0.1))
    assert gate.finish() is Verdict.RELEASE
    assert router.gate(place()).finish() is Verdict.ESCALATE
    broken = router.gate(place())
    broken.push(signal(math.nan))
    assert broken.finish() is Verdict.ESCALATE


def test_no_coin_sends_what_gains_nothing():
    kept = record(device=FLAT, server=0.6, lam=0.0, tie=0.9)
    assert decide(kept, place(), coin=0.0).source is Source.DEVICE
    assert decide(record(outside=0.4, tie=0.9), place(inside=False), coin=0.0).source is Source.DEVICE
