"""Which evidence goes live: never what answers fewer samples rightly than the plain base does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.customising.support import normalised
from crayon.customising.weighing import (
    CLASSES,
    HANDICAP,
    MIN_GAIN,
    MODEL,
    NO_CLASSES,
    OWN,
    PROMPTS,
    Scored,
    left_out_classes,
    needs_end,
    others_mean,
    weigh,
)

NOTHING = np.zeros((8, 2))


def scored(prompt, whole, ended=None, *, own=False):
    whole = np.asarray(whole, float)
    return Scored(prompt=prompt, whole=whole, ended=whole if ended is None else np.asarray(ended, float), own=own)


def leaning(labels, by, answers=2):
    """Log-probabilities that lean to each case's label; against it where `by` is negative."""
    rows = np.zeros((len(labels), answers))
    rows[np.arange(len(labels)), labels] = by
    return rows


def right_of(weighed, evidence, labels, classes, *, ended=False):
    """Answer the cases anew with what was decided, each with the bias of the others."""
    by_name = {one.prompt: one for one in evidence}
    if weighed.taught:
        return by_name[weighed.prompt].ended.argmax(axis=1) == labels
    model = normalised(by_name[weighed.prompt].ended if ended else by_name[weighed.prompt].whole)
    values = MODEL * (model - others_mean(model)) + weighed.classes * classes
    return values.argmax(axis=1) == labels


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 24),
    st.integers(2, 5),
    st.lists(st.sampled_from(PROMPTS[1:]), unique=True),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_nothing_goes_live_that_answers_fewer_judged_cases_rightly(cases, answers, prompts, ended, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(answers, size=cases)
    judged = rng.random(cases) < 0.8
    evidence = [
        scored(prompt, *rng.normal(scale=rng.choice([0.3, 3.0]), size=(2, cases, answers)), own=prompt == "blend")
        for prompt in ("base", *prompts)
    ]
    classes = rng.normal(scale=0.3, size=(cases, answers)) + leaning(labels, rng.choice([-0.5, 0.0, 0.5]), answers)
    found = weigh(evidence, labels, judged, classes, ended=ended)
    assert found.right[judged].sum() >= found.base[judged].sum()
    readings = [evidence[0].whole, evidence[0].ended]
    assert found.base[judged].sum() == max((one.argmax(axis=1) == labels)[judged].sum() for one in readings)
    if found.prompt is None:
        assert (found.classes, found.bias) == (0.0, ())
        assert found.right.tolist() == found.base.tolist()
    else:
        assert found.classes in CLASSES
        assert len(found.bias) == (0 if found.taught else answers)
        assert found.right.tolist() == right_of(found, evidence, labels, classes, ended=ended).tolist()


def test_evidence_that_tells_the_answers_goes_live():
    labels = np.arange(8) % 2
    found = weigh([scored("base", NOTHING)], labels, labels >= 0, leaning(labels, 0.5), ended=False)
    assert (found.prompt, found.classes) == ("base", CLASSES[0])
    assert found.right.all()


def test_what_makes_nothing_likelier_leaves_the_base():
    labels = np.arange(8) % 2
    same = leaning(labels, 2.0)
    found = weigh([scored("base", same), scored("examples", same)], labels, labels >= 0, NOTHING, ended=False)
    assert found.prompt is None
    assert found.base.all()
    assert set(found.tried) >= {"base", "examples", "base+classes", "examples+classes"}


def test_a_gain_must_be_more_than_chance():
    labels = np.arange(8) % 2

    def with_gain(by):
        shown = leaning(labels, 8.0 + by)
        return weigh(
            [scored("base", leaning(labels, 0.0)), scored("examples", shown)], labels, labels >= 0, NOTHING, ended=False
        )

    assert with_gain(0.0).prompt == "examples"
    plain = scored("base", leaning(labels, 8.0))
    loss = float(-normalised(plain.whole)[np.arange(8), labels].mean())
    assert loss < MIN_GAIN, "a base that is sure cannot be bettered"
    better = scored("examples", leaning(labels, 40.0))
    assert weigh([plain, better], labels, labels >= 0, NOTHING, ended=False).prompt is None


def test_what_the_model_thinks_of_an_answer_whatever_is_asked_is_taken_off():
    labels = np.arange(8) % 2
    biased = leaning(labels, 2.0) + np.array([9.0, 0.0])
    assert (biased.argmax(axis=1) == labels).sum() == 4
    found = weigh([scored("base", biased)], labels, labels >= 0, NOTHING, ended=False)
    assert found.prompt == "base"
    assert found.right.all()
    assert (found.bias[0] - found.bias[1]) == pytest.approx(9.0, abs=1e-3)
    assert np.argmax(normalised(biased) - found.bias, axis=1).tolist() == labels.tolist()


@given(st.integers(0, 1000))
def test_a_bias_of_the_model_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=10)
    model, classes = rng.normal(size=(10, 3)), rng.normal(scale=0.2, size=(10, 3))
    shifted = model + rng.normal(scale=5.0, size=3)
    base = scored("base", -leaning(labels, 1.0, 3))

    def chosen(shown):
        return weigh([base, scored("examples", shown)], labels, labels >= 0, classes, ended=False)

    one, other = chosen(model), chosen(shifted)
    assert one.right.tolist() == other.right.tolist()
    assert (one.prompt, one.classes) == (other.prompt, other.classes)


def test_the_end_counts_only_where_it_is_asked_for():
    labels = np.arange(8) % 2
    base = scored("base", -leaning(labels, 1.0))
    one = scored("examples", leaning(labels, 4.0), -leaning(labels, 4.0))
    assert weigh([base, one], labels, labels >= 0, NOTHING, ended=False).prompt == "examples"
    assert weigh([base, one], labels, labels >= 0, NOTHING, ended=True).prompt is None


def test_the_base_has_the_reading_and_the_temperature_that_suit_it_best():
    labels = np.arange(8) % 2
    base = scored("base", -leaning(labels, 1.0), leaning(labels, 4.0))
    found = weigh([base, scored("examples", leaning(labels, 4.0))], labels, labels >= 0, NOTHING, ended=False)
    assert found.base.all()
    assert found.prompt is None
    # Too sure, and wrong once in four: at a quarter of that it is as good as what is as often wrong.
    sure = leaning(labels, 4.0)
    sure[:2] = -sure[:2]
    modest = scored("examples", 0.25 / MODEL * sure)
    assert weigh([scored("base", sure), modest], labels, labels >= 0, NOTHING, ended=False).prompt is None


def test_a_prompt_has_to_make_up_for_its_handicap():
    labels = np.arange(8) % 2
    base = scored("base", NOTHING)
    equal = [base, *(scored(prompt, leaning(labels, 4.0)) for prompt in ("blend", "examples"))]
    assert HANDICAP["examples"] < HANDICAP["blend"] < HANDICAP["base"]
    assert weigh(equal, labels, labels >= 0, NOTHING, ended=False).prompt == "examples"
    much = [base, scored("blend", leaning(labels, 8.0)), scored("examples", leaning(labels, 1.0))]
    assert weigh(much, labels, labels >= 0, NOTHING, ended=False).prompt == "blend"


def test_doing_without_the_classifier_has_to_be_worth_it():
    labels = np.arange(8) % 2
    base = scored("base", NOTHING)
    shown = scored("examples", leaning(labels, 3.0))
    helpful = weigh([base, shown], labels, labels >= 0, leaning(labels, 0.02), ended=False)
    assert helpful.classes > 0.0
    misleading = weigh([base, shown], labels, labels >= 0, -leaning(labels, 1.0), ended=False)
    assert misleading.classes == 0.0
    assert NO_CLASSES > 0.0


def test_where_nothing_can_be_judged_the_base_is_kept():
    labels = np.arange(2)
    found = weigh([scored("base", np.zeros((2, 2)))], labels, labels > 5, leaning(labels, 1.0), ended=False)
    assert (found.prompt, found.tried, found.right.tolist()) == (None, {}, found.base.tolist())


def test_cases_that_are_not_judged_decide_nothing():
    labels = np.zeros(8, int)
    judged = np.arange(8) < 4
    rows = leaning(labels, 4.0)
    rows[4:] *= -1
    base = scored("base", np.tile([0.0, 0.1], (8, 1)))
    kept = weigh([base, scored("examples", rows)], labels, judged, leaning(labels, 0.5), ended=False)
    assert kept.prompt is not None
    assert kept.right[judged].all()


def test_the_mean_of_the_others():
    assert others_mean(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])).tolist() == [[4.0, 6.5], [3.0, 5.5], [2.0, 3.0]]
    assert others_mean(np.array([[1.0, 2.0]])).tolist() == [[0.0, 0.0]]


def test_classes_are_left_out():
    vectors = np.eye(4, 8)[[0, 0, 1, 1]] + 0.01
    found = left_out_classes(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), [0, 0, 1, 1], 2)
    assert found.argmax(axis=1).tolist() == [0, 0, 1, 1]
    lonely = left_out_classes(np.eye(3, 8), [0, 0, 1], 2)
    assert lonely[2].argmax() == 0, "nobody else says what it is"


@pytest.mark.parametrize(
    ("answers", "needed"),
    [
        (("red", "green"), False),
        (("todo", "todo list"), True),
        (("list", "todo list"), False),
        (("a", "b", "ab"), True),
    ],
)
def test_the_end_is_needed_where_an_answer_begins_another(answers, needed):
    assert needs_end(answers) is needed


def test_more_right_answers_need_no_more_certainty():
    """A base that is sure of most samples leaves little to gain in likelihood; what finds the others still helps."""
    labels = np.arange(8) % 2
    sure = leaning(labels, 4.0)
    sure[:2] = sure[:2, ::-1] / 4  # two of eight it has wrong, and is not sure of
    better = leaning(labels, 1.9)
    found = weigh([scored("base", sure), scored("examples", better)], labels, labels >= 0, NOTHING, ended=False)
    loss = -normalised(MODEL * (better - others_mean(better)))[np.arange(8), labels].mean()
    least = min(-normalised(scale * sure)[np.arange(8), labels].mean() for scale in (0.25, 0.5, 1.0))
    assert least - MIN_GAIN < loss <= least
    assert found.prompt == "examples"
    assert int(found.right.sum()) > int(found.base.sum())


def test_a_member_on_its_own_task_answers_as_it_was_taught_to():
    """Its end counts, no bias is taken off, and what is a little likelier on the samples does not stand in its way."""
    labels = np.arange(8) % 2
    base, member = scored("base", NOTHING), leaning(labels, 1.5)
    other = scored("reader", leaning(labels, 8.0))
    at_home = scored("blend", -member, member, own=True)
    found = weigh([base, at_home, other], labels, labels >= 0, NOTHING, ended=False)
    assert (found.prompt, found.taught, found.classes, found.bias) == ("blend", True, 0.0, ())
    assert found.right.all()
    stranger = scored("blend", member, own=False)
    assert weigh([base, stranger, other], labels, labels >= 0, NOTHING, ended=False).prompt == "reader"
    assert OWN < 0.0


def test_a_member_on_its_own_task_needs_no_gain_but_must_not_lose():
    labels = np.arange(8) % 2
    base = scored("base", leaning(labels, 1.0))
    as_good = scored("blend", leaning(labels, 1.0), own=True)
    assert weigh([base, as_good], labels, labels >= 0, NOTHING, ended=False).taught
    worse = leaning(labels, 1.0)
    worse[0] = [-1.0, 0.0]
    assert weigh([base, scored("blend", worse, own=True)], labels, labels >= 0, NOTHING, ended=False).prompt is None
