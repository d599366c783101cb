from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.engine import TokenSignal
from crayon.errors import InvalidRequestError
from crayon.router import ChoiceGate, Hardness, HardnessGate, RunningSignals, Verdict, choice_gate

LOGPROBS = st.floats(min_value=-12.0, max_value=0.0)
SETTINGS = st.builds(
    Hardness,
    threshold=st.floats(min_value=-5.0, max_value=0.0),
    hold_tokens=st.integers(1, 12),
    clear_tokens=st.integers(1, 12),
    clear_margin=st.one_of(st.floats(min_value=0.0, max_value=5.0), st.just(math.inf)),
)


def signal(logprob: float) -> TokenSignal:
    return TokenSignal(logprob, entropy=-logprob, margin=0.5)


def run(settings: Hardness, logprobs: list[float]) -> tuple[Verdict, int]:
    gate = HardnessGate(settings)
    for logprob in logprobs:
        if gate.push(signal(logprob)) is not Verdict.HOLD:
            break
    return gate.verdict, gate.tokens


@given(SETTINGS, st.lists(LOGPROBS, min_size=12, max_size=20))
def test_gate_holds_at_most_hold_tokens(settings, logprobs):
    verdict, tokens = run(settings, logprobs)
    assert verdict is not Verdict.HOLD
    assert tokens <= settings.hold_tokens


@given(SETTINGS, st.lists(LOGPROBS, max_size=12), st.lists(LOGPROBS, max_size=12))
def test_verdict_depends_only_on_the_tokens_seen(settings, seen, later):
    verdict, tokens = run(settings, seen)
    again, tokens_again = run(settings, seen + later)
    if verdict is Verdict.HOLD:
        assert tokens == len(seen)
    else:
        assert (again, tokens_again) == (verdict, tokens)


@given(SETTINGS, st.lists(LOGPROBS, min_size=1, max_size=20))
def test_score_and_threshold_always_explain_the_verdict(settings, logprobs):
    gate = HardnessGate(settings)
    for logprob in logprobs:
        if gate.push(signal(logprob)) is not Verdict.HOLD:
            break
    gate.finish()
    assert gate.score is not None
    assert (gate.verdict is Verdict.RELEASE) == (gate.score >= settings.threshold)


@given(SETTINGS, st.lists(LOGPROBS, max_size=11), st.lists(LOGPROBS, min_size=12, max_size=12))
def test_escalating_below_the_clear_count_is_never_premature(settings, seen, rest):
    """Before `clear_tokens` the gate escalates only where no continuation could have saved the answer."""
    verdict, tokens = run(settings, seen)
    if verdict is Verdict.ESCALATE and tokens < settings.clear_tokens:
        full = (seen[:tokens] + rest)[: settings.hold_tokens]
        assert sum(full) / len(full) < settings.threshold


@given(st.permutations([-0.1, -0.4, -1.3, -2.0]), st.floats(-3.0, 0.0))
def test_a_surer_answer_is_never_judged_harder(logprobs, threshold):
    settings = Hardness(threshold=threshold, hold_tokens=4, clear_margin=math.inf)
    surer = [logprob / 2 for logprob in logprobs]
    if run(settings, logprobs)[0] is Verdict.RELEASE:
        assert run(settings, surer)[0] is Verdict.RELEASE


def test_defaults_release_the_sure_early_and_escalate_the_unsure_early():
    assert run(Hardness(), [-0.1] * 20) == (Verdict.RELEASE, 4)
    assert run(Hardness(), [-1.8] * 20) == (Verdict.ESCALATE, 4)
    assert run(Hardness(), [-0.9] * 20) == (Verdict.RELEASE, 8)
    assert run(Hardness(), [-1.1] * 20) == (Verdict.ESCALATE, 8)
    assert run(Hardness(), [-9.0]) == (Verdict.ESCALATE, 1)  # seven certain tokens could not mend this


def test_a_short_answer_is_decided_at_its_end():
    gate = HardnessGate()
    gate.push(signal(-0.9))
    assert gate.finish() is Verdict.RELEASE
    gate = HardnessGate()
    gate.push(signal(-1.1))
    assert gate.finish() is Verdict.ESCALATE
    assert gate.features().tokens == 1


def test_an_empty_answer_escalates():
    gate = HardnessGate()
    assert gate.score is None
    assert gate.finish() is Verdict.ESCALATE


def test_a_final_verdict_stays():
    gate = HardnessGate(Hardness(hold_tokens=1))
    assert gate.push(signal(-0.1)) is Verdict.RELEASE
    assert gate.push(signal(-9.0)) is Verdict.RELEASE
    assert gate.finish() is Verdict.RELEASE
    assert gate.tokens == 1


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_a_broken_signal_counts_as_unsure(broken):
    assert run(Hardness(), [-0.1, broken])[0] is Verdict.ESCALATE


def test_a_log_probability_above_zero_cannot_make_an_answer_surer():
    seen = RunningSignals()
    seen.add(signal(50.0))
    seen.add(signal(-2.0))
    assert seen.mean_logprob == -1.0


def test_aggregates():
    seen = RunningSignals()
    assert seen.features().tokens == 0
    for logprob in (-1.0, -3.0):
        seen.add(TokenSignal(logprob, entropy=-logprob, margin=0.5))
    features = seen.features()
    assert (features.tokens, features.mean_logprob, features.min_logprob) == (2, -2.0, -3.0)
    assert (features.mean_entropy, features.max_entropy, features.mean_margin) == (2.0, 3.0, 0.5)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(-12.0, 0.0))
def test_a_choice_is_judged_at_once_and_by_its_margin_alone(margin, least, logprob):
    gate = choice_gate(Hardness(choice_margin=least))
    verdict = gate.push(TokenSignal(logprob, entropy=1.0, margin=margin))
    assert verdict is (Verdict.RELEASE if margin >= least else Verdict.ESCALATE)
    assert (gate.score, gate.threshold, gate.finish()) == (margin, least, verdict)


def test_without_a_margin_there_is_no_gate_for_choices():
    assert choice_gate(Hardness()) is None


def test_no_choice_at_all_escalates():
    gate = ChoiceGate(Hardness(choice_margin=0.0))
    assert (gate.score, gate.finish()) == (None, Verdict.ESCALATE)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"threshold": 0.5}, "hardness.threshold"),
        ({"choice_margin": -0.1}, "hardness.choice_margin"),
        ({"choice_margin": 1.1}, "hardness.choice_margin"),
        ({"choice_margin": math.nan}, "hardness.choice_margin"),
        ({"choice_margin": True}, "hardness.choice_margin"),
        ({"choice_margin": "low"}, "hardness.choice_margin"),
        ({"threshold": -math.inf}, "hardness.threshold"),
        ({"threshold": math.nan}, "hardness.threshold"),
        ({"threshold": "low"}, "hardness.threshold"),
        ({"hold_tokens": 0}, "hardness.hold_tokens"),
        ({"hold_tokens": 8.0}, "hardness.hold_tokens"),
        ({"hold_tokens": True}, "hardness.hold_tokens"),
        ({"hold_tokens": 10_000}, "hardness.hold_tokens"),
        ({"clear_tokens": 0}, "hardness.clear_tokens"),
        ({"clear_margin": -0.1}, "hardness.clear_margin"),
        ({"clear_margin": math.nan}, "hardness.clear_margin"),
    ],
)
def test_settings_out_of_range_are_named(options, field):
    with pytest.raises(InvalidRequestError) as caught:
        Hardness(**options)
    assert caught.value.field == field
