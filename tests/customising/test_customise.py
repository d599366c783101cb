from __future__ import annotations

import logging

import numpy as np
import pytest
from keyed_pool import BACKGROUND, keyed_pool, questions
from tiny_pool import shared_pool

from crayon.adapters import Gate
from crayon.completion import Usage
from crayon.customising.customise import check, customise
from crayon.customising.device_calls import DeviceCalls
from crayon.customising.evidence import Evidence
from crayon.customising.expectation import (
    MAX_CASES,
    TrialCase,
    choice_scores,
    few_of,
    left_out_weights,
    make_cases,
)
from crayon.customising.refine import MAX_EVALUATIONS, MAX_TOTAL, Refined, Search
from crayon.customising.sample import Sample
from crayon.customising.weighing import MODEL
from crayon.device import DeviceEngine
from crayon.engine import ContinuationScore, ScoreResult
from crayon.errors import AdapterError, CancelledError, DeadlineExceededError, InvalidRequestError, PrivacyError
from crayon.messages import Message
from crayon.server.engines.echo import EchoEngine


@pytest.fixture
def calls(engine):
    return DeviceCalls(engine)


def labelled(topic, count, labels=("red", "green"), seed=0):
    return [Sample(text, labels[i % len(labels)]) for i, text in enumerate(questions(topic, count, seed))]


def test_a_task_of_the_pool_gets_its_member(calls, pool):
    found = customise(calls, "mine", labelled("vowels", 12)).customization
    (profile,) = found.profiles
    assert (profile.name, profile.weights) == ("vowels", (1.0, 0.0, 0.0))
    assert (found.samples, found.answered, found.members) == (12, 12, pool.names)
    assert (found.pool_id, found.base_sha256) == (pool.id, pool.manifest.base.source_sha256)


def test_two_tasks_get_two_profiles(calls):
    draft = customise(calls, "mine", labelled("vowels", 10) + labelled("numbers", 8))
    assert [profile.name for profile in draft.customization.profiles] == ["vowels", "numbers"]
    assert draft.parts.tolist() == [0] * 10 + [1] * 8


def test_a_class_of_a_closed_set_is_no_task_of_its_own(calls):
    """Where the topic tells the answer, two profiles of one answer each would have nothing to choose from."""
    samples = labelled("vowels", 10, labels=("red",)) + labelled("numbers", 8, labels=("green",))
    draft = customise(calls, "mine", samples)
    (profile,) = draft.customization.profiles
    assert (profile.samples, draft.parts.tolist()) == (18, [0] * 18)
    found = check(calls, draft)
    assert found.profiles[0].evidence.answers == ("red", "green")
    assert found.expectation.customised == 100.0
    free = [Sample(text, f"answer {i}") for i, text in enumerate(questions("numbers", 8))]
    both = customise(calls, "mine", labelled("vowels", 10, labels=("red",)) + free).customization
    assert len(both.profiles) == 2, "one answer of the one, many of the other"


@pytest.mark.parametrize(
    "texts",
    [["こんにちは、元気ですか", "今日は良い天気です", "東京に行きたい"], ["Привет, как дела", "Что нового сегодня"]],
)
def test_another_language_keeps_the_base_or_is_weighed_and_never_fails(calls, texts):
    (profile,) = customise(calls, "mine", [Sample(text) for text in texts]).customization.profiles
    assert sum(profile.weights) <= 1.0 + 1e-6
    assert np.isfinite(profile.threshold)


def test_where_no_member_fits_the_base_is_kept(model_path):
    far = keyed_pool(model_path, gate=Gate(floor=1.5))
    with DeviceEngine(model_path, n_ctx=256, n_batch=64, threads=1, background=BACKGROUND, pools=[far]) as engine:
        draft = customise(DeviceCalls(engine), "mine", labelled("vowels", 8))
        found = check(DeviceCalls(engine), draft)
    assert not draft.customization.fits
    assert found.profiles[0].name == "mine", "the nearest member would say what the task is not"
    assert found.blend("mine") is None
    assert found.expectation is not None
    assert found.expectation.gain >= 0.0


def test_one_sample_is_enough_and_says_what_it_cannot_tell(calls):
    draft = customise(calls, "mine", [Sample(questions("marks", 1)[0], "yes")])
    found = check(calls, draft)
    assert found.profiles[0].name == "marks"
    assert found.expectation is None
    assert "single" in found.note


def test_samples_without_answers_are_used_and_not_checked(calls):
    found = check(calls, customise(calls, "mine", [Sample(text) for text in questions("vowels", 8)]))
    assert found.expectation is None
    assert "no sample has an answer" in found.note


def test_a_sample_longer_than_the_context_is_named(calls):
    with pytest.raises(InvalidRequestError, match=r"sample 2: has \d+ tokens, at most 512 fit"):
        customise(calls, "mine", [Sample("short"), Sample("aei " * 600)])


def test_a_thousand_samples_are_taken(calls):
    draft = customise(calls, "mine", labelled("vowels", 1000))
    assert draft.customization.profiles[0].samples == 1000


def test_the_expectation_is_leave_one_out_against_the_plain_base(calls):
    draft = customise(calls, "mine", labelled("vowels", 8))
    seen = []
    found = check(calls, draft, progress=lambda what, done, total: seen.append((what, done, total))).expectation
    assert (found.metric, found.samples) == ("accuracy", 8)
    assert seen[0][:2] == ("check", 0)
    assert seen[-1][1] == seen[-1][2] == len(seen) - 1
    right = {"ended": 0, "whole": 0}
    for sample in draft.samples:
        result = calls.score((Message("user", sample.question),), ("red", "green"), None, ended=True)
        texts = [score.token_logprobs[:-1] for score in result.scores]
        for rule, values in (
            ("ended", [score.total for score in result.scores]),
            ("whole", [sum(text) for text in texts]),
        ):
            right[rule] += sample.answer == ("red", "green")[int(np.argmax(values))]
    assert found.base == pytest.approx(100.0 * max(right.values()) / 8), "the base has the rule that suits it best"
    assert found.low <= found.gain <= found.high


def test_free_answers_are_compared_by_log_probability(calls):
    samples = [Sample(text, f"answer {i}") for i, text in enumerate(questions("vowels", 3))]
    found = check(calls, customise(calls, "mine", samples)).expectation
    assert found.metric == "logprob"
    assert found.base < 0
    assert found.customised != found.base


class Told:
    """Stands for the device: each text's log-probabilities, the end's last, under the base and under any blend."""

    def __init__(self, plain, blended):
        self.plain, self.blended = plain, blended

    def score(self, messages, texts, blend, *, ended=False):
        known = self.plain if blend is None else self.blended
        lists = [known[text] if ended else known[text][:-1] for text in texts]
        return ScoreResult(tuple(ContinuationScore(tuple(each)) for each in lists), Usage(1, 0), "told")


def cases_of(*answers, choices=("todo list", "todo list update"), part=0):
    return [
        TrialCase(i, (Message("user", "?"),), choices, choices.index(answer))
        for i, answer in enumerate(answers, start=part)
    ]


def test_a_label_that_continues_another_label_can_win():
    sure = {"todo list": (-0.1, -9.0), "todo list update": (-0.2, -0.1)}
    (case,) = cases_of("todo list update")
    assert int(np.argmax(choice_scores(Told(sure, sure), case, None))) == case.right
    ended_early = {"todo list": (-0.1, -0.1), "todo list update": (-0.2, -0.1)}
    assert int(np.argmax(choice_scores(Told(ended_early, ended_early), case, None))) != case.right


def test_long_choices_are_compared_per_token_without_the_end():
    choices = ("a b c d e f", "a much longer text of many words")
    (case,) = cases_of(choices[1], choices=choices)
    told = {choices[0]: (-1.0, -1.0, -1.0, 0.0), choices[1]: (-0.9, -0.9, -0.9, -0.9, -0.9, -9.0)}
    assert choice_scores(Told(told, told), case, None).tolist() == pytest.approx([-1.0, -0.9])


class Rigged(DeviceCalls):
    """Finds the right answer or not, as told for each kind of prompt; `right` is each question's answer."""

    def __init__(self, engine, samples, *, plain, blended=None, shown=None, sure=39.0):
        super().__init__(engine)
        self.sure = sure
        self.right = {sample.question: sample.answer for sample in samples}
        self.plain, self.blended, self.shown = plain, blended or plain, shown or plain
        self.asked = []

    def tokens(self, messages):
        return len(messages)  # so that examples fit the tiny context

    def score(self, messages, texts, blend, *, ended=False):
        self.asked.append((messages, blend))
        question = messages[-1].content
        rule = self.blended if blend is not None else self.shown if len(messages) > 2 else self.plain
        likely = [-1.0 if (text == self.right[question]) is rule(question) else -1.0 - self.sure for text in texts]
        return ScoreResult(tuple(ContinuationScore((value, -0.5)[: 1 + ended]) for value in likely), Usage(), "rigged")


def always(_):
    return True


def never(_):
    return False


def every_second(samples):
    found = {sample.question for sample in samples[::2]}
    return found.__contains__


def unlike(count, labels=("red", "green")):
    """Samples of one topic whose embedding says nothing of their answer."""
    texts = questions("vowels", count)
    return [Sample(text, labels[(i // 2) % len(labels)]) for i, text in enumerate(texts)]


def test_a_blend_that_does_worse_than_the_base_is_refused_and_shown(engine):
    samples = labelled("vowels", 8)
    rigged = Rigged(engine, samples, plain=always, blended=lambda question: question != samples[0].question)
    draft = customise(rigged, "mine", samples)
    found = check(rigged, draft)
    (profile,) = found.profiles
    assert profile.weights == (0.0, 0.0, 0.0)
    assert found.blend(profile.name) is None
    refused = found.refused(profile.name)
    assert refused.weights == draft.customization.profiles[0].weights
    assert (refused.base, refused.samples) == (100.0, 8)
    assert refused.customised < 100.0
    assert found.expectation.customised == 100.0, "what answers now is right as often as the base"
    assert found.expectation.refused == (refused,)


def test_a_blend_that_is_right_where_nothing_else_is_goes_live(engine):
    samples = unlike(16)
    rigged = Rigged(engine, samples, plain=never, blended=always)
    found = check(rigged, customise(rigged, "mine", samples))
    (profile,) = found.profiles
    assert profile.fits
    assert found.expectation.customised == 100.0
    assert found.expectation.refused == ()
    assert profile.evidence.answers == ("red", "green")


def test_examples_that_are_right_where_nothing_else_is_go_live(engine):
    samples = unlike(16)
    rigged = Rigged(engine, samples, plain=every_second(samples), blended=every_second(samples), shown=always)
    found = check(rigged, customise(rigged, "mine", samples))
    (profile,) = found.profiles
    assert len(profile.evidence.examples) == 16
    assert not profile.fits, "the blend is not shown together with examples"
    assert found.expectation.customised == 100.0
    shown = [messages for messages, _ in rigged.asked if len(messages) > 2]
    assert shown
    for messages in shown:
        told = {message.content for message in messages[:-1]}
        assert messages[-1].content not in told, "no sample sees itself"


@pytest.mark.parametrize(
    ("size", "says"), [(10, "12 samples in place of 16 shown as examples"), (100, "no sample was tried as an example")]
)
def test_examples_that_do_not_fit_the_context_are_fewer_or_none_and_that_is_said(engine, monkeypatch, size, says):
    samples = unlike(16)
    rigged = Rigged(engine, samples, plain=every_second(samples), blended=every_second(samples), shown=always)
    room = 0.25 * engine.models()[0].context_tokens  # 12 samples and the question are 26 messages
    monkeypatch.setattr(rigged, "tokens", lambda messages: len(messages) * size * room / 260)
    found = check(rigged, customise(rigged, "mine", samples))
    assert len(found.profiles[0].evidence.examples) == (12 if size == 10 else 0)
    assert says in found.note


def test_what_helps_nothing_leaves_the_base(engine):
    samples = unlike(16)
    rigged = Rigged(engine, samples, plain=always)
    found = check(rigged, customise(rigged, "mine", samples))
    assert found.expectation.gain == 0.0
    worse = Rigged(engine, samples, plain=always, blended=never, shown=never)
    kept = check(worse, customise(worse, "mine", samples))
    assert not any(profile.fits for profile in kept.profiles)
    assert kept.expectation.customised == kept.expectation.base == 100.0


def test_of_two_profiles_only_the_one_that_does_harm_keeps_the_base(engine):
    samples = unlike(16) + [
        Sample(text, ("one", "two")[(i // 2) % 2]) for i, text in enumerate(questions("numbers", 12))
    ]
    vowels = {sample.question for sample in samples[:16]}
    rigged = Rigged(
        engine,
        samples,
        plain=vowels.__contains__,
        blended=lambda question: question not in vowels,
        shown=vowels.__contains__,
    )
    found = check(rigged, customise(rigged, "mine", samples))
    assert [profile.fits for profile in found.profiles] == [False, True]
    assert [refused.profile for refused in found.expectation.refused] == ["vowels"]
    assert found.refused("numbers") is None
    assert found.expectation.customised == 100.0


def test_the_first_stage_lets_nothing_live_that_was_not_tried(engine):
    samples = unlike(16)
    rigged = Rigged(engine, samples, plain=never, blended=always, shown=always)
    ready, steps = [], []
    check(
        rigged,
        customise(rigged, "mine", samples),
        ready=lambda found: ready.append((found, len(rigged.asked))),
        progress=lambda what, done, total: steps.append((what, done, total)),
    )
    ((draft, asked),) = ready
    assert asked == 8, "the plain base on 8 samples"
    assert not any(profile.fits or profile.evidence.examples for profile in draft.profiles)
    assert [done for _, done, _ in steps] == list(range(len(rigged.asked) + 1))
    assert {total for _, _, total in steps} == {len(rigged.asked)}


@pytest.mark.parametrize("label_of", [lambda i: i // 12, lambda i: i % 2, lambda i: i // 3 % 2])
def test_the_first_stage_is_fair_to_each_answer(engine, label_of):
    """Samples are often sorted by their answer, or have their answers in turn."""
    samples = [Sample(text, ("red", "green")[label_of(i)]) for i, text in enumerate(questions("vowels", 24))]
    rigged = Rigged(engine, samples, plain=never)
    check(rigged, customise(rigged, "mine", samples), quick=True)
    answers = [rigged.right[messages[-1].content] for messages, _ in rigged.asked]
    assert (answers.count("red"), answers.count("green")) == (4, 4)


def test_the_first_stage_lets_the_classifier_live_and_says_nothing_harmful(model_path):
    """Without a pool, as a stranger's model is."""
    with DeviceEngine(model_path, n_ctx=256, n_batch=64, threads=1, background=BACKGROUND) as engine:
        samples = labelled("vowels", 12, labels=("red",)) + labelled("numbers", 12, labels=("green",))
        rigged, ready = Rigged(engine, samples, plain=never, sure=3.0), []
        found = check(rigged, customise(rigged, "mine", samples), ready=ready.append)
        (draft,) = ready
        assert draft.profiles[0].evidence.classes > 0.0
        assert draft.profiles[0].evidence.examples == ()
        assert (draft.expectation.base, draft.expectation.customised) == (0.0, 100.0)
        assert (found.pool_id, found.members, found.profiles[0].weights) == ("", (), ())
        assert found.profiles[0].name == "mine"
        assert found.expectation.customised == 100.0
        right = Rigged(engine, samples, plain=always)
        check(right, customise(right, "mine", samples), ready=ready.append)
        assert ready[1].profiles[0].evidence == Evidence(answers=("red", "green"), model=MODEL)
        assert (ready[1].expectation.base, ready[1].expectation.customised) == (100.0, 100.0)


def test_a_quick_check_ends_after_the_first_stage(engine):
    samples = unlike(16)
    rigged = Rigged(engine, samples, plain=never, blended=always, shown=always)
    ready = []
    found = check(rigged, customise(rigged, "mine", samples), quick=True, ready=ready.append)
    assert len(rigged.asked) == 8
    assert ready == [found]
    assert not any(profile.fits for profile in found.profiles)
    assert found.note == "only the quick check was made, on 8 of 16 samples: neither blend nor examples were tried"


def test_free_answers_that_become_less_likely_refuse_the_blend_too(engine):
    samples = [Sample(text, f"answer {i}") for i, text in enumerate(questions("vowels", 8))]
    rigged = Rigged(engine, samples, plain=always, blended=never)
    found = check(rigged, customise(rigged, "mine", samples))
    assert (found.expectation.metric, found.fits) == ("logprob", False)
    assert found.expectation.refused[0].base > found.expectation.refused[0].customised


def test_examples_that_make_free_answers_likelier_are_shown(engine):
    samples = [Sample(text, f"answer {i}") for i, text in enumerate(questions("vowels", 12))]
    rigged = Rigged(engine, samples, plain=never, shown=always)
    (profile,) = check(rigged, customise(rigged, "mine", samples)).profiles
    assert len(profile.evidence.examples) == 12
    assert profile.evidence.answers == ()


def test_a_case_too_long_with_its_answer_is_left_out(calls):
    free = [Sample(text, f"answer {i}") for i, text in enumerate(questions("vowels", 4))]
    found = check(calls, customise(calls, "mine", [*free, Sample("vowels here", "red " * 600)])).expectation
    assert (found.metric, found.samples) == ("logprob", 4)
    long = labelled("vowels", 4, labels=("red", "green " * 600))
    found = check(calls, customise(calls, "mine", long))
    assert found.expectation is None
    assert "longer than the context" in found.note


def test_the_system_message_and_few_cases_of_many():
    samples = labelled("vowels", 90) + labelled("numbers", 10)
    parts = np.array([0] * 90 + [1] * 10)
    cases, metric = make_cases(samples, parts, Message("system", "be brief"))
    assert metric == "accuracy"
    assert cases[0].messages == (Message("system", "be brief"), Message("user", samples[0].question))
    few = few_of(range(90))
    assert len(set(few)) == MAX_CASES
    assert (few[0], few[-1]) == (0, 89)
    assert few_of([3, 5, 8]) == [3, 5, 8]


def test_a_sample_never_weighs_on_its_own_check(pool):
    """One sample apart from the others: left out, it must not pull the weights."""
    vectors = np.repeat(pool.keys[:1], 4, axis=0)
    vectors[3] = pool.keys[1]
    gate = Gate(temperature=1.0, sharpen=2.0, floor=0.0)
    own, other = (left_out_weights(vectors, np.zeros(4, int), i, pool.keys, gate) for i in (3, 0))
    assert own[1] < other[1]
    assert own == left_out_weights(vectors, np.array([0, 0, 0, 1]), 0, pool.keys, gate)
    assert left_out_weights(vectors, np.array([0, 1, 1, 1]), 0, pool.keys, gate) is None


def test_refining_keeps_only_what_is_better_on_held_out_samples(calls):
    draft = customise(calls, "mine", labelled("vowels", 16))
    scored = []
    real = calls.score
    calls.score = lambda messages, texts, blend, **more: scored.append(blend) or real(messages, texts, blend, **more)
    found = check(calls, draft, refining=True)
    start = draft.customization.profiles[0]
    profile = found.profiles[0]
    if profile.refined:
        assert profile.weights != start.weights
    else:
        assert profile.weights in (start.weights, (0.0, 0.0, 0.0))
    searched = [blend for blend in scored if blend is not None]
    assert len(scored) <= MAX_EVALUATIONS * 8 + 3 * 16
    assert all(sum(map(abs, blend.weights)) <= MAX_TOTAL + 0.01 for blend in searched)
    assert found.expectation.samples == 15, "all but the one that fits as an example, not half of them"


def test_a_refined_blend_counts_only_on_samples_that_the_search_did_not_see(engine, monkeypatch):
    samples = unlike(16)
    rigged = Rigged(engine, samples, plain=never, blended=always)
    draft = customise(rigged, "mine", samples)
    weights = (0.25, 0.25, 0.0)

    def refined(_calls, _pool, cases, *_, **__):
        return Refined(weights, better=True, held_out=tuple(cases[1::2]))

    monkeypatch.setattr("crayon.customising.customise.refine", refined)
    found = check(rigged, draft, refining=True)
    judged = [messages[-1].content for messages, blend in rigged.asked if blend is not None]
    assert sorted(judged) == sorted(sample.question for sample in samples[1::2])
    assert {blend.weights for _, blend in rigged.asked if blend is not None} == {weights}
    (profile,) = found.profiles
    assert (profile.weights, profile.refined) == (weights, True)
    assert (found.expectation.base, found.expectation.customised) == (0.0, 50.0)
    assert found.expectation.samples == 16


def test_too_few_answers_are_not_refined(calls):
    found = check(calls, customise(calls, "mine", labelled("vowels", 5)), refining=True)
    assert not found.profiles[0].refined
    assert "8 are the least" in found.note


def test_the_search_climbs_and_never_loses_its_best():
    goal = np.array([0.2, 0.7, 0.0, 0.0])
    search = Search((1.0, 0.0, 0.0, 0.0), (0.9, 0.8, 0.1, 0.0))
    values = []
    for _ in range(MAX_EVALUATIONS):
        values.append(-float(np.linalg.norm(np.array(search.propose()) - goal)))
        search.tell(values[-1])
    assert search.best_worth == max(values) > values[0] / 3
    other = Search((1.0, 0.0, 0.0, 0.0), (0.9, 0.8, 0.1, 0.0))
    assert other.propose() == (1.0, 0.0, 0.0, 0.0), "the weights so far are judged like any others"


class Remote(EchoEngine):
    """An engine with everything but a place on this device."""

    address = "server.test:1"
    pools = ()

    def encode_raw(self, request):
        raise AssertionError("nothing may be sent")


@pytest.mark.parametrize("other", [EchoEngine, Remote])
def test_samples_are_refused_to_an_engine_elsewhere(other):
    engine = other()
    try:
        with pytest.raises(PrivacyError, match="never leave the device"):
            DeviceCalls(engine)
    finally:
        engine.close()


def test_no_pool_is_needed_and_an_unknown_one_or_one_without_keys_is_said(model_path, calls):
    plain = shared_pool(model_path)
    for pools in ([], [plain]):
        with DeviceEngine(model_path, n_ctx=256, threads=1, background=BACKGROUND, pools=pools) as engine:
            found = customise(DeviceCalls(engine), "mine", [Sample("a")]).customization
        assert (found.pool_id, found.members, found.profiles[0].name) == ("", (), "mine")
        assert not found.fits
    with (
        DeviceEngine(model_path, n_ctx=256, threads=1, background=BACKGROUND, pools=[plain]) as engine,
        pytest.raises(AdapterError, match="has no keys"),
    ):
        customise(DeviceCalls(engine), "mine", [Sample("a")], pool_id=plain.id)
    with pytest.raises(AdapterError, match="pool other@0 is not loaded"):
        customise(calls, "mine", [Sample("a")], pool_id="other@0")


def test_without_background_texts_it_is_said(model_path, pool):
    with (
        DeviceEngine(model_path, n_ctx=256, threads=1, pools=[pool]) as engine,
        pytest.raises(AdapterError, match="no background texts"),
    ):
        customise(DeviceCalls(engine), "mine", [Sample("a")])


def test_a_cancelled_check_and_one_without_patience_end(engine, calls):
    draft = customise(calls, "mine", labelled("vowels", 8))
    stopped = DeviceCalls(engine, cancelled=lambda: True)
    with pytest.raises(CancelledError):
        check(stopped, draft)
    with pytest.raises(DeadlineExceededError):
        check(DeviceCalls(engine, patience=1e-9), draft)


def test_logs_hold_no_text_of_a_sample(calls, caplog):
    with caplog.at_level(logging.DEBUG):
        check(calls, customise(calls, "mine", [Sample("secret vowels aei", "hidden"), Sample("oua", "covert")]))
    assert not any(word in caplog.text for word in ("secret", "hidden", "covert"))
