"""Which samples a prompt shows, and what is shown to a sample that is judged."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from crayon.customising.examples import FOLDS, MAX_EXAMPLES, MIN_OUTSIDE, choose_examples, judged_by, shown_to
from crayon.customising.sample import Sample, by_answer

answers = st.lists(st.integers(0, 5), min_size=1, max_size=60)


def samples_of(labels):
    return [Sample(f"question {i}?", f"label {label}") for i, label in enumerate(labels)]


def always(_):
    return True


@given(answers, st.integers(1, MAX_EXAMPLES))
def test_as_many_as_asked_for_are_taken_the_first_of_each_answer(labels, most):
    samples = samples_of(labels)
    chosen = choose_examples(samples, range(len(samples)), always, most=most)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == min(most, len(samples))
    counts = Counter(labels[i] for i in chosen)
    for label in counts:
        own = [i for i, other in enumerate(labels) if other == label]
        assert [i for i in chosen if labels[i] == label] == own[: counts[label]]


@given(answers, st.integers(1, MAX_EXAMPLES))
def test_answers_take_turns(labels, room):
    samples = samples_of(labels)
    chosen = choose_examples(samples, range(len(samples)), lambda numbers: len(numbers) <= room)
    there, counts = Counter(labels), Counter(labels[i] for i in chosen)
    for one in there:
        for other in there:
            assert counts[one] - counts[other] <= 1 or counts[other] == there[other], "or the other has no more"


@given(answers, st.integers(0, 60))
def test_so_many_are_taken_as_fit(labels, room):
    samples = samples_of(labels)
    chosen = choose_examples(samples, range(len(samples)), lambda numbers: len(numbers) <= room)
    assert len(chosen) <= room
    assert bool(chosen) == bool(room), "some fit wherever one does"


def test_only_the_samples_of_a_profile_are_taken():
    assert choose_examples(samples_of([0, 1, 0, 1, 0, 1]), [1, 2, 5], always) == (1, 2, 5)
    assert choose_examples(samples_of([0, 1]), [], always) == ()


def test_one_answer_in_several_spellings_takes_one_turn():
    samples = [Sample("a?", "Red"), Sample("b?", "red "), Sample("c?", "RED"), Sample("d?", "green")]
    assert choose_examples(samples, range(4), always, most=2) == (0, 3)


def test_answers_that_choices_tell_apart_take_turns_of_their_own():
    """As in "mW" and "MW": what the samples keep apart is two answers here, too."""
    units = ("mW", "MW")
    samples = [Sample("a?", "mW", units), Sample("b?", "mW", units), Sample("c?", "MW", units)]
    assert choose_examples(samples, range(3), always, most=2) == (0, 2)


@given(answers)
def test_samples_by_answer_are_all_of_them_each_answer_s_together_and_in_order(labels):
    ordered = by_answer(samples_of(labels), range(len(labels)))
    assert sorted(ordered) == list(range(len(labels)))
    assert ordered == sorted(ordered, key=lambda i: (labels.index(labels[i]), i))


def cases_and_examples():
    numbers = st.lists(st.integers(0, 40), unique=True, max_size=24).map(sorted)
    return st.tuples(numbers, numbers)


@given(cases_and_examples())
def test_no_case_sees_itself_and_all_see_most_examples(both):
    cases, examples = both
    shown = shown_to(cases, examples)
    assert len(shown) == len(cases)
    own = [case for case in cases if case in examples]
    for case, seen in zip(cases, shown, strict=True):
        assert case not in seen
        assert list(seen) == [number for number in examples if number in seen], "in their order"
        hidden = set(examples) - set(seen)
        assert hidden <= set(own)
        if case not in examples:
            assert not hidden
        else:
            assert len(hidden) <= -(-len(own) // FOLDS)


@given(cases_and_examples())
def test_two_cases_of_a_fold_see_the_same(both):
    """So that what one prompt has computed serves the next."""
    cases, examples = both
    shown = shown_to(cases, examples)
    assert len({seen for case, seen in zip(cases, shown, strict=True) if case in examples}) <= FOLDS


@given(st.integers(0, 40), st.integers(0, 40))
def test_those_outside_judge_if_they_are_enough(count, examples):
    numbers = list(range(count))
    judges = judged_by(numbers, numbers[:examples])
    outside = numbers[examples:]
    assert judges == (outside if len(outside) >= MIN_OUTSIDE else numbers)
