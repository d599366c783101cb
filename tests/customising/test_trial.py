"""The trial of a profile: what is scored, and what goes live for it, told by a model that says what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from crayon.completion import Usage
from crayon.customising.evidence import NONE, Evidence
from crayon.customising.sample import Sample
from crayon.customising.trial import MIN_NATS, MIN_POINTS, Trial
from crayon.customising.weighing import MODEL
from crayon.engine import ContinuationScore, ScoreResult
from crayon.errors import EngineError, PromptTooLongError
from crayon.messages import Message

LABELS = ("red", "green")
READER = (0.0, 0.0, 1.0)


@dataclass
class Scripted:
    """Makes right answers as likely under each kind of prompt as it is told: one number, or one for each question."""

    right: dict
    likely: dict
    too_long: tuple = ()
    asked: list = field(default_factory=list)

    def kind(self, messages, blend):
        shown = any(message.role == "assistant" for message in messages)
        if blend is None:
            return "examples" if shown else "base"
        return "reader" if blend.weights == READER else "blend"

    def score(self, messages, texts, blend, *, ended=False):
        kind, question = self.kind(messages, blend), messages[-1].content
        self.asked.append((kind, messages, tuple(texts), blend))
        if (kind, question) in self.too_long or kind in self.too_long:
            raise PromptTooLongError(9, 8)
        lead = self.likely[kind]
        lead = lead[question] if isinstance(lead, dict) else lead
        assert ended
        totals = [-5.0 + lead if text == self.right[question] else -5.0 for text in texts]
        return ScoreResult(tuple(ContinuationScore((total, -0.5)) for total in totals), Usage(), "scripted")


def closed(count=12, labels=LABELS):
    return [Sample(f"question {i}?", labels[i % len(labels)]) for i in range(count)]


def free(count=12):
    return [Sample(f"question {i}?", f"answer number {i} of a kind") for i in range(count)]


def choices(count=12):
    """Each question has choices of its own."""
    return [Sample(f"question {i}?", f"right {i}", (f"right {i}", f"wrong {i}")) for i in range(count)]


def trial_of(samples, *, cases=None, examples=None, weights=(0.5, 0.0, 0.0), reader=(), vectors=None, own=False):
    numbers = [i for i, sample in enumerate(samples) if sample.answer is not None]
    cases = numbers if cases is None else cases
    return Trial(
        0,
        samples,
        numbers,
        cases,
        # Embeddings that say nothing, unless others are given.
        np.ones((len(samples), 4), np.float32) / 2 if vectors is None else vectors,
        tuple(numbers[:4]) if examples is None else examples,
        [weights] * len(cases),
        "pool@0",
        reader,
        own,
    )


def tried(samples, likely, *, too_long=(), system=None, **how):
    trial = trial_of(samples, **how)
    calls = Scripted({sample.question: sample.answer for sample in samples}, likely, too_long)
    for job in trial.jobs:
        trial.score(calls, job, system)
    return trial, calls, trial.verdict()


def likely(base=0.0, blend=0.0, examples=0.0, reader=0.0):
    return {"base": base, "blend": blend, "examples": examples, "reader": reader}


# -- what is scored


@pytest.mark.parametrize(("reader", "showing"), [((), "examples"), (READER, "reader")])
def test_every_case_is_scored_under_every_kind_of_prompt_the_base_first(reader, showing):
    """Examples stand under the reader where there is one, and only there."""
    trial, calls, _ = tried(closed(), likely(), system=Message("system", "be brief"), reader=reader)
    assert trial.kind == "closed"
    assert [kind for kind, *_ in calls.asked] == ["base"] * 12 + ["blend"] * 12 + [showing] * 12
    for kind, messages, texts, blend in calls.asked:
        assert texts == LABELS
        assert messages[0] == Message("system", "be brief")
        shown = messages[1:-1]
        assert messages[-1].content not in {message.content for message in shown}, "no case sees itself"
        own = messages[-1].content in {f"question {i}?" for i in range(4)}
        assert len(shown) == (0 if kind in {"base", "blend"} else 6 if own else 8)
        assert (blend.pool_id if blend else None) == ("pool@0" if kind in {"blend", "reader"} else None)


def test_what_is_not_there_is_not_tried():
    kinds = [job.prompt for job in trial_of(closed(), examples=(), weights=None).jobs]
    assert set(kinds) == {"base"}
    assert {job.prompt for job in trial_of(closed(), weights=(0.0, 0.0, 0.0)).jobs} == {"base", "examples"}
    assert {job.prompt for job in trial_of(closed(), examples=(), reader=READER).jobs} == {"base", "blend"}, (
        "a reader reads examples"
    )


@pytest.mark.parametrize(
    ("samples", "kind", "texts"),
    [
        (closed(), "closed", LABELS),
        (choices(), "choice", ("right 3", "wrong 3")),
        (free(), "free", ("answer number 3 of a kind",)),
    ],
)
def test_the_kind_of_a_task_says_what_is_scored(samples, kind, texts):
    trial = trial_of(samples)
    assert trial.kind == kind
    assert trial.texts(3) == texts


# -- a closed set


def test_of_a_closed_set_the_kind_of_prompt_that_is_right_goes_live():
    for kind in ("blend", "examples", "reader"):
        _, _, found = tried(closed(), likely(**{kind: 4.0}), reader=READER if kind == "reader" else ())
        assert found.prompt == kind
        assert found.evidence.answers == LABELS
        assert found.evidence.examples == ((0, 1, 2, 3) if kind in {"examples", "reader"} else ())
        assert found.evidence.model == MODEL
        assert found.evidence.rule == "whole"
        assert [outcome.customised for outcome in found.outcomes] == [100.0] * 12


def test_of_a_closed_set_the_classifier_alone_goes_live():
    vectors = np.asarray(np.eye(2, 4)[[i % 2 for i in range(12)]], np.float32)
    _, _, found = tried(closed(), likely(base=-1.0), weights=None, examples=(), vectors=vectors)
    assert found.prompt == "base"
    assert found.evidence.classes > 0.0
    assert found.evidence.labelled == tuple(range(12))
    assert {(outcome.base, outcome.customised) for outcome in found.outcomes} == {(0.0, 100.0)}


def test_of_a_closed_set_what_loses_stays_out_and_the_blend_is_told():
    _, _, found = tried(closed(), likely(base=4.0, blend=-4.0, examples=-4.0, reader=-4.0))
    assert (found.prompt, found.harmed) == ("base", 0.0)
    assert found.evidence == Evidence(answers=LABELS, model=MODEL), "the plain model chooses among the answers"
    assert {(outcome.base, outcome.customised) for outcome in found.outcomes} == {(100.0, 100.0)}


@pytest.mark.parametrize(("right", "live"), [(12, True), (9, True), (8, False), (0, False)])
def test_the_plain_base_chooses_among_the_answers_only_where_it_knows_them(right, live):
    """Six of the twelve samples have the commonest answer: that many are right whatever is asked."""
    samples = closed()
    sure = {sample.question: 4.0 if i < right else -4.0 for i, sample in enumerate(samples)}
    _, _, found = tried(samples, {**likely(), "base": sure}, examples=(), weights=None, reader=())
    assert found.prompt == "base"
    assert found.evidence == (Evidence(answers=LABELS, model=MODEL) if live else NONE)
    assert [outcome.base for outcome in found.outcomes] == [outcome.customised for outcome in found.outcomes]


def test_the_plain_base_is_read_by_its_end_where_that_is_more_often_right():
    class Ended(Scripted):
        def score(self, messages, texts, blend, *, ended=False):
            likeliest = [text == self.right[messages[-1].content] for text in texts]
            scores = tuple(ContinuationScore((-5.0 + i, -0.5 if right else -9.5)) for i, right in enumerate(likeliest))
            return ScoreResult(scores, Usage(), "ended")

    samples = closed()
    trial = trial_of(samples, examples=(), weights=None, reader=())
    for job in trial.jobs:
        trial.score(Ended({sample.question: sample.answer for sample in samples}, {}), job, None)
    assert trial.verdict().evidence == Evidence(answers=LABELS, model=MODEL, rule="ended")


@pytest.mark.parametrize("labels", [LABELS, ("red", "green", "blue", "brown")])
def test_whoever_is_judged_sees_examples_of_its_own_answer(labels):
    """Answers given in turn are as many as there are folds, or a part of them."""
    samples = closed(16, labels)
    trial = trial_of(samples, examples=tuple(range(16)))
    shown = {job.case: job.turns for job in trial.jobs if job.prompt == "examples"}
    assert len(shown) == 16
    for turns in shown.values():
        counts = [sum(samples[i].answer == label for i in turns) for label in labels]
        assert max(counts) - min(counts) <= 1


def test_a_blend_that_is_as_often_right_as_the_base_does_no_harm():
    """Less its bias for "green" the base would be right more often, but that is not how it answers alone."""
    half = {f"question {i}?": 4.0 if i < 6 else -4.0 for i in range(12)}
    biased = {f"question {i}?": 4.0 if i % 2 else -1.0 for i in range(12)}
    _, _, found = tried(closed(), likely(base=biased, blend=half, examples=-4.0, reader=-4.0))
    assert np.mean([outcome.base for outcome in found.outcomes]) == 50.0
    assert found.harmed is None
    half["question 0?"] = -4.0
    _, _, found = tried(closed(), likely(base=biased, blend=half, examples=-4.0, reader=-4.0))
    assert found.harmed == pytest.approx(500 / 12)


def test_answers_that_begin_like_others_are_told_apart_by_their_end():
    _, _, found = tried(closed(labels=("todo", "todo list")), likely(examples=4.0))
    assert found.evidence.rule == "ended"


def test_an_answer_that_no_other_sample_has_is_not_judged():
    samples = [*closed(6), Sample("what else?", "blue")]
    _, _, found = tried(samples, likely(examples=4.0))
    assert len(found.outcomes) == 6
    assert found.evidence.answers == (*LABELS, "blue")


def test_where_answers_are_named_that_no_sample_has_every_sample_is_judged():
    """What does well only on answers that the samples show does not go live: here the examples."""
    named = (*LABELS, "blue", "brown", "black")
    samples = [Sample(f"question {i}?", named[i % 2] if i < 8 else named[i % 2 + 2], named) for i in range(10)]
    shown = {sample.question: 4.0 if i < 8 else -9.0 for i, sample in enumerate(samples)}
    _, _, found = tried(samples, likely(blend=2.0, examples=shown))
    assert (found.prompt, len(found.outcomes)) == ("blend", 10)
    covered = [*samples, *(Sample(f"more {i}?", name, named) for i, name in enumerate(named))]
    _, _, found = tried(covered, likely(blend=2.0, examples=shown | {f"more {i}?": 4.0 for i in range(5)}))
    assert len(found.outcomes) == 15 - 1, "black came once"


def test_where_every_answer_came_once_the_blend_alone_is_judged():
    labels = ("a", "b", "c", "d")
    samples = [Sample(f"question {i}?", label, labels) for i, label in enumerate(labels)]
    _, _, found = tried(samples, likely(blend=4.0, examples=9.0, reader=9.0))
    assert (found.prompt, found.evidence, len(found.outcomes)) == ("blend", NONE, 4)
    _, _, found = tried(samples, likely(base=4.0, blend=-4.0, examples=9.0))
    assert (found.prompt, found.harmed) == ("base", 0.0)


# -- a member's own task


@pytest.mark.parametrize("samples", [closed(), [Sample(f"question {i}?", LABELS[i % 2], LABELS) for i in range(12)]])
def test_a_member_on_its_own_task_chooses_among_the_answers_as_it_was_taught_to(samples):
    _, _, found = tried(samples, likely(blend=2.0, examples=4.0), own=True)
    assert found.prompt == "blend"
    assert found.evidence == Evidence(answers=LABELS, rule="ended")
    assert [outcome.customised for outcome in found.outcomes] == [100.0] * 12


def test_a_member_is_not_held_to_answers_that_the_samples_show_only_in_part():
    """One answer came once, so others will come that no sample has; and the member knows them."""
    samples = [*closed(), Sample("what else?", "blue")]
    _, _, found = tried(samples, likely(blend=2.0), own=True)
    assert (found.prompt, found.evidence) == ("blend", NONE)
    named = [Sample(sample.question, sample.answer, (*LABELS, "blue", "brown")) for sample in samples]
    _, _, found = tried(named, likely(blend=2.0), own=True)
    assert (found.prompt, found.evidence.answers) == ("blend", (*LABELS, "blue", "brown"))


def test_a_member_that_loses_on_its_own_task_is_refused():
    _, _, found = tried(closed(), likely(base=1.0, blend=-1.0), examples=(), own=True)
    assert (found.prompt, found.harmed) == ("base", 0.0)


@pytest.mark.parametrize("samples", [choices(), free()])
def test_where_a_member_fits_examples_have_to_gain_more_than_chance_over_it(samples):
    told = likely(base=-1.0, blend=1.0, examples=1.0)
    _, _, found = tried(samples, told, own=False)
    assert found.prompt == "examples"
    _, _, found = tried(samples, told, own=True)
    assert (found.prompt, found.evidence) == ("blend", NONE)
    _, _, found = tried(samples, likely(base=-1.0, blend=-1.0, examples=4.0), own=True)
    assert found.prompt == "examples", "but they may"


# -- choices of each question's own, and free answers


@pytest.mark.parametrize("samples", [choices(), free()])
def test_examples_have_to_gain_more_than_chance(samples):
    _, _, found = tried(samples, likely(base=0.1, blend=0.1, examples=0.1, reader=0.1), weights=None)
    assert (found.prompt, found.evidence) == ("base", NONE)
    _, _, found = tried(samples, likely(base=-1.0, examples=4.0, reader=-4.0), weights=None)
    assert (found.prompt, found.evidence.examples, found.evidence.answers) == ("examples", (0, 1, 2, 3), ())


def test_of_choices_so_many_points_are_chance():
    """Of 12, one more right is 8 points."""
    base = {f"question {i}?": -1.0 if i < 3 else 1.0 for i in range(12)}
    for fewer_wrong, prompt in ((1, "base"), (2, "examples")):
        better = {question: 1.0 if i < fewer_wrong else lead for i, (question, lead) in enumerate(base.items())}
        _, _, found = tried(choices(), likely(base=base, examples=better, reader=-9.0), weights=None)
        assert found.prompt == prompt
    assert 100 / 12 < MIN_POINTS < 200 / 12


def test_of_free_answers_so_many_nats_a_token_are_chance():
    for gain, prompt in ((0.5, "base"), (2.0, "examples")):
        # Of two tokens, one is the answer's end, as likely under every prompt.
        _, _, found = tried(free(), likely(examples=gain * 2 * MIN_NATS, reader=-9.0), weights=None)
        assert found.prompt == prompt
    assert [outcome.customised for outcome in found.outcomes] == pytest.approx([-2.75 + 2 * MIN_NATS] * 12)


@pytest.mark.parametrize("samples", [choices(), free(), choices(2), free(2)])
def test_a_blend_that_loses_stays_out_however_few_samples_say_so(samples):
    _, _, found = tried(samples, likely(base=1.0, blend=-1.0, examples=-9.0, reader=-9.0))
    assert (found.prompt, found.evidence) == ("base", NONE)
    assert found.harmed == np.mean([outcome.customised for outcome in found.outcomes]) - (
        1.0 if samples[0].choices == () else 100.0
    )
    _, _, found = tried(samples, likely(base=1.0, blend=1.0, examples=-9.0, reader=-9.0))
    assert (found.prompt, found.harmed) == ("blend", None), "what is as good needs nothing to be shown"


@pytest.mark.parametrize("samples", [closed(), choices(), free()])
def test_the_reader_goes_live_where_it_reads_better_than_the_base(samples):
    _, _, found = tried(samples, likely(base=-1.0, blend=-1.0, examples=-1.0, reader=4.0), reader=READER)
    assert found.prompt == "reader"
    assert found.evidence.examples == (0, 1, 2, 3)


# -- what cannot be scored


@pytest.mark.parametrize("samples", [closed(), choices(), free()])
def test_a_case_that_is_too_long_is_left_out(samples):
    told = likely(base=-1.0, blend=-1.0, examples=4.0, reader=-1.0)
    _, _, found = tried(samples, told, too_long=[("base", "question 5?")])
    assert found.prompt == "examples"
    assert len(found.outcomes) == 11


@pytest.mark.parametrize("samples", [closed(), choices(), free()])
def test_a_kind_of_prompt_that_does_not_fit_every_case_is_not_tried(samples):
    _, _, found = tried(samples, likely(base=-1.0, examples=4.0), too_long=[("examples", "question 5?")], weights=None)
    assert found.prompt == "base"


@pytest.mark.parametrize("samples", [closed(), choices(), free()])
def test_where_the_others_give_no_weights_the_blend_is_the_base(samples):
    how = {"weights": None, "examples": ()}
    trial = trial_of(samples, **how)
    trial = Trial(0, samples, trial.numbers, trial.cases, trial.vectors, (), [None, *[(0.5, 0.0, 0.0)] * 11], "pool@0")
    calls = Scripted({sample.question: sample.answer for sample in samples}, likely(blend=4.0))
    for job in trial.jobs:
        trial.score(calls, job, None)
    found = trial.verdict()
    assert found.prompt == "blend"
    assert len(found.outcomes) == 12
    assert found == trial.verdict(), "asked again, it says the same"


def test_nothing_scored_and_a_single_sample_decide_nothing():
    trial, _, found = tried(closed(), likely(), too_long=["base", "blend", "examples", "reader"])
    assert (found.outcomes, found.evidence, trial.scored) == ((), NONE, False)
    trial, _, found = tried(closed(1), likely(blend=4.0), examples=())
    assert (found.outcomes, found.evidence, trial.scored) == ((), NONE, True)
    assert trial_of(closed(1), examples=()).verdict().outcomes == ()


def test_an_engine_that_leaves_out_the_end_is_an_error():
    trial = trial_of(closed())
    calls = Scripted({}, {})
    calls.score = lambda *_, **__: ScoreResult((ContinuationScore((-1.0,)),) * 2, Usage(), "short")
    with pytest.raises(EngineError, match="no score for a text and its end"):
        trial.score(calls, trial.jobs[0], None)
