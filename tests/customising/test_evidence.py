"""What a profile's samples say of a query: records of it, turns before the conversation, values of answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_store import made, profile

from crayon.customising.classifier import Classifier
from crayon.customising.customization import EXPORTED, SCHEMA, Customization, Expectation
from crayon.customising.evidence import NONE, Evidence
from crayon.customising.material import Material
from crayon.customising.sample import Sample
from crayon.customising.store import CustomizationStore, read_export
from crayon.customising.support import ProfileSupport, Support, normalised, place_of, turns_of
from crayon.engine import ContinuationScore
from crayon.errors import AdapterError
from crayon.messages import Message

ANSWERS = ("Red", "green", "blue")
SAMPLES = tuple(Sample(f"question {i}?", ANSWERS[i % 3] if i < 6 else None) for i in range(7))
VECTORS = np.asarray(np.repeat(np.eye(3, 8), 2, axis=0)[[0, 2, 4, 1, 3, 5, 0]], np.float32)
MATERIAL = Material(SAMPLES, VECTORS)
FULL = Evidence(
    examples=(0, 1, 2, 4),
    answers=ANSWERS,
    labelled=(0, 1, 2, 3, 4, 5),
    model=0.5,
    bias=(-0.25, -1.0, -2.0),
    classes=10.0,
    rule="ended",
)
SYSTEM, ASKED = Message("system", "be brief"), Message("user", "and now?")


def with_evidence(evidence, **values):
    return made(profiles=(replace(profile(), evidence=evidence),), samples=7, answered=6, **values)


# -- records

texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.floats(-1e6, 1e6)


@st.composite
def evidences(draw):
    answers = tuple(draw(st.one_of(st.just([]), st.lists(texts, min_size=2, max_size=5, unique=True))))
    labelled = tuple(draw(st.lists(st.integers(0, 999), max_size=5)))
    return Evidence(
        examples=tuple(draw(st.lists(st.integers(0, 999), max_size=5))),
        answers=answers,
        labelled=labelled,
        model=draw(numbers),
        bias=tuple(draw(numbers) for _ in answers) if draw(st.booleans()) else (),
        classes=draw(numbers) if answers and labelled else 0.0,
        rule=draw(st.sampled_from(["ended", "whole", "token"])),
    )


@given(evidences())
def test_evidence_is_read_as_it_was_written(evidence):
    custom = with_evidence(evidence)
    assert Customization.parse(custom.dump(), "here") == custom


def test_evidence_is_true_where_something_takes_part():
    assert not NONE
    assert not Evidence(labelled=(1, 2))
    assert Evidence(examples=(1,))
    assert Evidence(answers=("a", "b"))
    assert replace(profile(weights=(0.0, 0.0)), evidence=FULL).changes
    assert not profile(weights=(0.0, 0.0)).changes


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"answers": ["a"]}, "at least 2 different texts"),
        ({"answers": ["a", "a"]}, "at least 2 different texts"),
        ({"answers": ["a", "b"], "bias": [1.0]}, "1 biases for 2 answers"),
        ({"bias": [1.0]}, "1 biases for 0 answers"),
        ({"answers": ["a", "b"], "classes": 1.0}, "a classifier without samples or answers"),
        ({"labelled": [1], "classes": 1.0}, "a classifier without samples or answers"),
        ({"examples": [-1]}, "by a negative number"),
        ({"answers": ["a", "b"], "labelled": [-2], "classes": 1.0}, "by a negative number"),
        ({"model": "much"}, "must be"),
        ({"rule": "loudest"}, "must be one of ended, whole, token"),
        ({"examples": ["1"]}, "whole number"),
        ({"secret": 1}, "unknown field 'secret'"),
    ],
)
def test_a_record_with_bad_evidence_is_refused(tmp_path, fields, says):
    record = json.loads(with_evidence(NONE).dump())
    record["profiles"][0]["evidence"].update(fields)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(record))
    with pytest.raises(AdapterError, match=says):
        read_export(path)


@pytest.mark.parametrize("fields", [{"model": np.inf}, {"classes": np.nan}, {"bias": (0.0, np.nan, 0.0)}])
def test_evidence_is_finite(fields):
    with pytest.raises(AdapterError, match="not finite"):
        replace(FULL, **fields)


def test_a_record_without_evidence_has_none():
    record = json.loads(with_evidence(FULL).dump())
    del record["profiles"][0]["evidence"]
    assert Customization.parse(json.dumps(record).encode(), "here").profiles[0].evidence == NONE


@pytest.mark.parametrize(("schema", "advice"), [(1, "customise again with its samples"), (SCHEMA + 1, "update Crayon")])
def test_a_record_of_another_schema_says_what_to_do(tmp_path, schema, advice):
    record = json.loads(made().dump()) | {"schema": schema}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(record))
    with pytest.raises(AdapterError, match=rf"has schema {schema}, this Crayon reads {SCHEMA}; {advice}"):
        read_export(path)


def test_an_export_has_no_word_of_the_samples_and_says_what_is_left(tmp_path):
    store = CustomizationStore(tmp_path / "store")
    expectation = Expectation(metric="accuracy", base=30.0, customised=90.0, low=1.0, high=99.0, samples=6)
    store.save(with_evidence(FULL, expectation=expectation), SAMPLES, VECTORS)
    assert store.load("travel").profiles[0].evidence == FULL
    store.export("travel", tmp_path / "out.json")
    found = read_export(tmp_path / "out.json")
    assert found.profiles[0].evidence == NONE
    assert found.profiles[0].weights == profile().weights
    assert (found.note, found.expectation, found.material) == (EXPORTED, None, "")
    text = (tmp_path / "out.json").read_text()
    assert not any(word in text for word in ("question", *ANSWERS))
    without = made(expectation=expectation, note="as it was").without_samples()
    assert (without.note, without.expectation) == ("as it was", expectation), "what holds without samples stays"


# -- turns


@pytest.mark.parametrize("system", [(), (SYSTEM,)])
@pytest.mark.parametrize("history", [(), (Message("user", "a?"), Message("assistant", "b"))])
def test_turns_stand_before_the_conversation_and_behind_the_system_message(system, history):
    turns = turns_of(SAMPLES[:2])
    assert [(turn.role, turn.content) for turn in turns] == [
        ("user", "question 0?"),
        ("assistant", "Red"),
        ("user", "question 1?"),
        ("assistant", "green"),
    ]
    support = Support(turns=turns)
    asked = (*system, *history, ASKED)
    assert support.before(asked) == (*system, *turns, *history, ASKED)
    assert support.before(asked)[: support.shared(asked)] == (*system, *turns), "what every query shares"
    none = Support(answers=ANSWERS, odds=(0.0,) * 3)
    assert none.before(asked) == asked
    assert none.shared(asked) == 0


def test_an_example_without_an_answer_is_an_error():
    with pytest.raises(AdapterError, match="has no answer; customise again"):
        turns_of(SAMPLES)


def test_what_is_left_where_turns_do_not_fit(tmp_path):
    full = ProfileSupport(FULL, MATERIAL, tmp_path).of(VECTORS[0])
    assert (full.kinds, full.folder) == (("examples", "classes", "answers"), tmp_path)
    shorter = full.without_turns()
    assert (shorter.turns, shorter.folder, shorter.kinds) == ((), None, ("classes", "answers"))
    assert (shorter.answers, shorter.odds) == (full.answers, full.odds)


# -- values


def scores(*totals, end=-1.0):
    return tuple(ContinuationScore((total, end)) for total in totals)


def test_values_are_the_models_less_its_bias_and_the_classifiers():
    evidence = replace(FULL, rule="whole")
    vector = VECTORS[1]
    support = ProfileSupport(evidence, MATERIAL).of(vector)
    classifier = Classifier(VECTORS[:6], [0, 1, 2, 0, 1, 2], 3)
    found = support.values(ANSWERS, scores(-1.0, -2.0, -3.0))
    model = normalised(np.array([-1.0, -2.0, -3.0]))
    wanted = 0.5 * (model - np.array(evidence.bias)) + 10.0 * classifier.values(vector[np.newaxis])[0]
    assert found == pytest.approx(wanted)
    assert found.argmax() == 1


def test_the_rule_says_whether_the_end_counts():
    told = (ContinuationScore((-1.0, -9.0)), ContinuationScore((-2.0, -0.1)))
    for rule, best in (("whole", 0), ("ended", 1)):
        support = Support(answers=("a", "b"), odds=(0.0, 0.0), rule=rule)
        assert support.values(("a", "b"), told).argmax() == best


def test_choices_are_found_among_the_answers_however_they_are_written_and_ordered():
    support = Support(answers=ANSWERS, odds=(0.0, 5.0, 1.0))
    found = support.values(("BLUE", " Green "), scores(-1.0, -1.0))
    assert (found - found[0]).tolist() == [0.0, 4.0]


def test_answers_that_only_case_tells_apart_stay_apart():
    answers = ("mW", "MW")
    support = Support(answers=answers, odds=(0.0, 5.0))
    assert support.values(answers, scores(-1.0, -1.0)).tolist() == [normalised(np.zeros(2))[0], np.log(0.5) + 5.0]
    assert [place_of(Sample("of what?", answer), answers) for answer in answers] == [0, 1]
    samples = tuple(Sample(f"{i}?", answers[i % 2], answers) for i in range(4))
    evidence = Evidence(answers=answers, labelled=(0, 1, 2, 3), classes=10.0, model=0.0)
    found = ProfileSupport(evidence, Material(samples, np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]))
    for i in range(2):
        assert int(np.argmax(found.of(np.eye(2, dtype=np.float32)[i]).odds)) == i


def test_a_choice_that_no_sample_has_gets_the_lowest_odds_of_the_others():
    support = Support(answers=ANSWERS, odds=(3.0, 5.0, 1.0))
    found = support.values(("red", "violet", "green"), scores(-1.0, -1.0, -1.0))
    assert (found - found[1]).tolist() == [0.0, 0.0, 2.0]
    likely = support.values(("red", "violet", "green"), scores(-9.0, -1.0, -9.0))
    assert likely.argmax() == 1, "the model may still say so"


@pytest.mark.parametrize("choices", [("violet", "pink"), ("red", "pink"), ("Red", "red", "pink")])
def test_other_questions_than_the_samples_are_the_models_to_answer(choices):
    support = Support(answers=ANSWERS, odds=(3.0, 5.0, 1.0))
    assert support.values(choices, scores(*(-1.0 for _ in choices))) is None


# -- a profile's


def test_without_a_classifier_every_query_gets_the_same():
    found = ProfileSupport(replace(FULL, classes=0.0), MATERIAL)
    assert not found.looks
    assert found.of(None) == found.of(VECTORS[2])
    assert found.of(None).odds == (0.125, 0.5, 1.0)
    assert found.of(None).kinds == ("examples", "answers")
    assert ProfileSupport(replace(FULL, classes=0.0, bias=()), MATERIAL).of(None).odds == (0.0, 0.0, 0.0)
    assert ProfileSupport(FULL, MATERIAL).looks


def test_a_sample_is_left_out_of_its_turns_and_of_its_classifier():
    supports = ProfileSupport(FULL, MATERIAL, None)
    left_out = Classifier(VECTORS[:6], [0, 1, 2, 0, 1, 2], 3).left_out()
    for number in range(6):
        found = supports.left_out(number)
        asked = {turn.content for turn in found.turns if turn.role == "user"}
        assert SAMPLES[number].question not in asked
        assert len(found.turns) == (6 if number in FULL.examples else 8)
        assert list(found.odds) == pytest.approx(-0.5 * np.array(FULL.bias) + 10.0 * left_out[number])
        assert found.classes
    outside = supports.left_out(6)
    assert (outside.classes, len(outside.turns)) == (False, 8)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"examples": (0, 7)}, "samples beyond the 7 that are kept"),
        ({"labelled": (0, 9)}, "samples beyond the 7 that are kept"),
        ({"examples": (6,)}, "an example has no answer"),
        ({"labelled": (0, 6)}, "none of the closed set"),
        ({"answers": ("Red", "green", "yellow")}, "none of the closed set"),
    ],
)
def test_evidence_of_other_samples_is_refused(changed, says):
    with pytest.raises(AdapterError, match=f"{says}.*customise again"):
        ProfileSupport(replace(FULL, **changed), MATERIAL)
