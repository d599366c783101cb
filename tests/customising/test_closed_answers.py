"""When the answers of a task are a closed set, and when two answers are one."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.customising.sample import MAX_CHOICES, Sample, as_samples, closed_answers, one_spelling
from crayon.errors import InvalidRequestError
from crayon.text_form import one_form, same_key


def answered(*counts, name="label", extra=()):
    """Samples of as many answers as there are counts, each so often."""
    texts = [f"{name} {chr(97 + i % 26)}{chr(97 + i // 26)}" for i, count in enumerate(counts) for _ in range(count)]
    return [*(Sample(f"question {i}?", text) for i, text in enumerate(texts)), *extra]


@pytest.mark.parametrize(
    ("counts", "closed"),
    [
        ((2, 1), True),
        ((15, 1), True),
        ((2, 2), True),
        ((1, 1), False),
        ((2,), False),
        ((1,), False),
        ((), False),
        # 16 samples of 10 labels, some of them with one sample
        ((2,) * 6 + (1,) * 4, True),
        ((3, 3, 3) + (1,) * 7, True),
        ((6, 2) + (1,) * 8, True),
        ((5, 3) + (1,) * 8, True),
        ((4, 4) + (1,) * 8, True),
        # half came once, by twos
        ((2,) * 4 + (1,) * 8, True),
        ((2,) * 3 + (1,) * 10, False),
        # free texts, two equal by chance
        ((2,) + (1,) * 14, False),
        ((2, 2) + (1,) * 12, False),
        ((1,) * 16, False),
        # one text that repeats among free ones
        ((7,) + (1,) * 9, False),
        ((8,) + (1,) * 8, False),
        # two thirds as many answers as samples, most of which came once
        ((7, 3) + (1,) * 8, True),
        ((4, 3) + (1,) * 11, False),
        ((1,) * 100, False),
        ((2,) * MAX_CHOICES, True),
        ((2,) * (MAX_CHOICES + 1), False),
    ],
)
def test_answers_are_closed_where_they_repeat(counts, closed):
    samples = answered(*counts, extra=[Sample("one without an answer?")])
    random.Random(0).shuffle(samples)
    found = closed_answers(samples)
    expected = tuple(dict.fromkeys(sample.answer for sample in samples if sample.answer)) if closed else ()
    assert found == expected, "in the order in which they came"


def test_the_same_choices_of_every_answered_sample_are_closed_whatever_their_order():
    one = Sample("a?", "x", ("x", "y", "z"))
    assert closed_answers([one]) == ("x", "y", "z")
    assert closed_answers([one, Sample("b?", "z", ("z", "x", "y")), Sample("c?")]) == ("x", "y", "z")
    assert closed_answers([one, Sample("b?", "Z", ("Z ", "X", "Y"))]) == ("x", "y", "z")
    assert closed_answers([Sample("a?", None, ("x", "y"))]) == ()


def test_choices_that_differ_from_question_to_question_are_none_of_the_task():
    samples = [Sample(f"{i}?", "both", ("both", f"only {i}")) for i in range(8)]
    assert closed_answers(samples) == ()
    assert closed_answers([*samples, *answered(4, 4)]) == ()


def test_choices_of_some_samples_complete_what_the_others_show():
    samples = [*answered(4, 4), Sample("a?", "other", ("other", "label aa"))]
    assert closed_answers(samples) == ("label aa", "label ba", "other")


@pytest.mark.parametrize("wording", ["flights to {}", "to {}, please", "{}"])
def test_words_of_the_questions_are_closed_only_if_each_was_seen_often(wording):
    def cities(names, times):
        return [Sample(f"{i}: " + wording.format(name), name) for i in range(times) for name in names]

    names = ("Paris", "Rome", "Oslo", "Bern")
    assert closed_answers(cities(names, 2)) == ()
    assert closed_answers(cities(names, 3)) == names
    assert closed_answers([*cities(names[:2], 2), *answered(2, 2)]) != (), "half of them is not most"


def test_a_short_label_does_not_stand_inside_a_word_but_scripts_without_spaces_do():
    samples = [Sample(f"do you know note {i}?", ("no", "yes")[i % 2]) for i in range(4)]
    assert closed_answers(samples) == ("no", "yes")
    samples = [Sample(f"{city}の天気は? {i}", city) for i in range(2) for city in ("東京", "京都")]
    assert closed_answers(samples) == ()


def test_numbers_are_closed_only_if_each_was_seen_often():
    results = [Sample(f"what is the sum of case {chr(97 + i)}?", str(i % 8)) for i in range(16)]
    stars = [Sample(f"how good is case {chr(97 + i)}?", f"{i % 5 + 1}/5") for i in range(16)]
    assert closed_answers(results) == ()
    assert closed_answers(stars) == ("1/5", "2/5", "3/5", "4/5", "5/5")


# -- one answer, however it is written


def nfd(text):
    return unicodedata.normalize("NFD", text)


def test_texts_are_kept_in_one_unicode_form():
    sample = Sample(nfd("où est le café?"), nfd("été"), (nfd("été"), "hiver"))
    assert sample == Sample("où est le café?", "été", ("été", "hiver"))
    assert as_samples([nfd("é?"), "é?"]) == (Sample("é?"),)
    assert as_samples([(nfd("é?"), "x"), ("É?", " X")]) == (Sample("é?", "x"),)


@given(st.text(max_size=20))
def test_the_key_is_that_of_every_spelling(text):
    key = same_key(text)
    forms = (nfd(text), one_form(text), f"  {text}\n", one_form(text).casefold())
    assert {same_key(form) for form in forms} == {key}


def test_an_answer_is_written_as_it_was_first():
    samples = (Sample("a?", "Café "), Sample("b?", "tea"), Sample("c?", nfd("CAFÉ")), Sample("d?", " café"))
    found, merged = one_spelling(samples)
    assert [sample.answer for sample in found] == ["Café", "tea", "Café", "Café"]
    assert merged == 1
    assert closed_answers(samples) == ("Café ", "tea")
    assert closed_answers(found) == ("Café", "tea")


def test_answers_that_are_written_in_one_way_are_left_as_they_are():
    samples = (Sample("a?", "  return x\n"), Sample("b?", "y", ("y", "z")))
    assert one_spelling(samples) == (samples, 0)


def test_choices_are_written_as_they_were_first_too():
    samples = (Sample("a?", "red", ("Red", "Green")), Sample("b?", "green", ("green", "RED")), Sample("c?", "GREEN"))
    assert samples[0].answer == "Red", "as the choice is written"
    found, merged = one_spelling(samples)
    assert merged == 2
    assert found == (
        Sample("a?", "Red", ("Red", "Green")),
        Sample("b?", "Green", ("Green", "Red")),
        Sample("c?", "Green"),
    )


def test_choices_that_only_case_tells_apart_stay_apart():
    units = ("mW", "MW")
    samples = (Sample("of a laser?", "mW", units), Sample("of a plant?", "MW", units), Sample("of a town?", "MW"))
    assert one_spelling(samples) == (samples, 0)
    assert closed_answers(samples[:2]) == units
    with pytest.raises(InvalidRequestError, match="none of the choices"):
        Sample("of what?", "mw", units)


@pytest.mark.parametrize("second", ["é", nfd("é"), " é"])
def test_a_choice_given_twice_is_refused(second):
    with pytest.raises(InvalidRequestError, match="2 to 100 different texts"):
        Sample("a?", None, ("é", second))
