"""Closed answers: one of the samples' own answers comes in place of a text, wherever something is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from custom_fakes import ANSWERS, Closed, about
from sdk_fakes import FakeServer

from crayon import Blend, Crayon, InvalidRequestError, Message, PromptTooLongError, Reason, Source
from crayon.customising.support import Support
from crayon.sdk.call import customizations
from crayon.sdk.query_gate import ChosenProfile

GREEN, RED = "which colour has thing 21", "which colour has thing 22"
ELSEWHERE = "tell me a story"


def customised(folder, **how):
    """Make `mine` from 16 samples with two answers."""
    with Crayon(Closed(**how), customizations_dir=folder) as client:
        return client.customize("mine", about("colour", 16))


@pytest.fixture(params=["knows", "reads", "reads without a pool"])
def kind(request):
    """Options of the device: what makes it right."""
    without = {"pools": ()} if request.param == "reads without a pool" else {}
    return {"reads": request.param != "knows", **without}


def made(sdk, folder, kind, server=None, **options):
    customised(folder, **kind)
    device = Closed(**kind)
    return device, sdk.make(device, server, customizations_dir=folder, **options)


def test_ask_answers_with_one_of_the_set_and_its_probability(sdk, tmp_path, kind):
    device, client = made(sdk, tmp_path, kind)
    for text, right in ((GREEN, "green"), (RED, "red")):
        found = sdk.call(client.ask(text, blend="mine"))
        assert found.text == right
        assert 0.5 < found.probability <= 1.0
        assert ("examples" in found.route.evidence) is kind["reads"]
        assert found.route.evidence[-1] == "answers"
    assert device.requests == [], "nothing is written"


def test_stream_gives_the_answer_as_one_piece(sdk, tmp_path, kind):
    _, client = made(sdk, tmp_path, kind)
    stream = client.stream(GREEN, blend="mine")
    assert [piece.text for piece in sdk.read(stream)] == ["green"]
    assert stream.completion.probability > 0.5


def test_a_conversation_goes_on_with_closed_answers_behind_the_examples(sdk, tmp_path, kind):
    device, client = made(sdk, tmp_path, kind, customization="mine")
    chat = client.chat()
    assert [sdk.call(chat.ask(text)).text for text in (GREEN, RED)] == ["green", "red"]
    assert [message.content for message in chat.messages] == [GREEN, "green", RED, "red"]
    own = [message.content for message in device.scored[-1].messages[-3:]]
    assert own == [GREEN, "green", RED]
    assert (len(device.scored[-1].messages) > 3) is kind["reads"], "the examples stand before it, in no history"
    assert sdk.call(chat.ask(RED, free=True)).text == "a b"


def test_a_form_asks_for_a_text_too(sdk, tmp_path, kind):
    device, client = made(sdk, tmp_path, kind)
    found = sdk.call(client.ask(GREEN, blend="mine", regex="[ab ]+"))
    assert (found.text, found.probability, "answers" in found.route.evidence) == ("a b", None, False)
    assert device.requests[-1].constraint.text == "[ab ]+"


def test_free_asks_for_a_text_without_what_would_make_it_a_label(sdk, tmp_path, kind):
    """Neither the set takes part, nor the examples of it, nor a member of the pool that reads examples."""
    device, client = made(sdk, tmp_path, kind)
    found = sdk.call(client.ask(GREEN, blend="mine", free=True))
    assert (found.text, found.probability, found.route.evidence) == ("a b", None, ())
    assert [message.content for message in device.requests[0].messages] == [GREEN]
    blend = Blend("pool@0", (0.0, 1.0))
    turns = (Message("user", RED), Message("assistant", "red"))
    label, text = Support(turns, answers=ANSWERS, odds=(0.0, 0.0)), Support(turns)
    assert ChosenProfile("mine", "mine", blend, label).for_text() == ChosenProfile("mine", "mine", None)
    assert ChosenProfile("mine", "mine", blend, replace(label, turns=())).for_text() == ChosenProfile(
        "mine", "mine", blend
    )
    assert ChosenProfile("mine", "mine", blend, text).for_text() == ChosenProfile("mine", "mine", blend, text), (
        "examples of texts stay"
    )


def test_a_question_outside_gets_a_text(sdk, tmp_path, kind):
    _, client = made(sdk, tmp_path, kind, customization="mine")
    found = sdk.call(client.ask(ELSEWHERE))
    assert (found.text, found.probability, found.route.evidence) == ("a b", None, ())


def test_what_does_not_fit_beside_the_examples_is_answered_without_them_and_says_so(sdk, tmp_path):
    device, client = made(sdk, tmp_path, {"reads": True})
    device.room = 1
    found = sdk.call(client.ask(GREEN, blend="mine"))
    assert found.text in ANSWERS
    assert "examples" not in found.route.evidence
    assert len(device.scored[-1].messages) == 1
    wrote = sdk.call(client.ask(GREEN, blend="mine", free=True))
    assert wrote.text == "a b", "the writing device has room for it"


def test_a_question_that_fits_in_no_way_is_an_error_of_what_the_caller_gave(sdk, tmp_path, kind):
    device, client = made(sdk, tmp_path, kind)
    device.room = 0
    with pytest.raises(PromptTooLongError) as asked:
        sdk.call(client.ask(GREEN, blend="mine"))
    assert asked.value.field == "messages", "no choices were given"
    with pytest.raises(PromptTooLongError) as chosen:
        sdk.call(client.choose(GREEN, ANSWERS, blend="mine"))
    assert chosen.value.field == "choices[1]"


def test_explain_tells_of_a_closed_answer_what_asking_would_do(sdk, tmp_path, kind):
    server = FakeServer("large")
    device, client = made(sdk, tmp_path, kind, server, customization="mine")
    why = sdk.call_or_value(client.explain(GREEN))
    found = sdk.call(client.ask(GREEN))
    assert (why.source, why.reason, why.choices) == (found.route.source, found.route.reason, len(ANSWERS))
    assert (device.requests, server.requests, server.scored) == ([], [], [])


def test_calibrating_answers_each_sample_by_the_others(sdk, tmp_path, kind):
    server = FakeServer("large")
    device, client = made(sdk, tmp_path, kind, server, customization="mine")
    record = sdk.call(client.calibrate("mine"))
    assert record.calibration.report.cases == 16
    assert record.calibration.report.device >= 0.8, "a sample outside its scope is answered by the plain base"
    assert record.signal == "margin"
    for request in device.scored:
        shown = [message.content for message in request.messages[:-1]]
        assert request.messages[-1].content not in shown, "no sample is shown to itself"
    found = sdk.call(client.ask(GREEN))
    assert (found.text, found.route.source) == ("green", Source.DEVICE)
    assert found.route.reason in (Reason.IN_SCOPE, Reason.CONFIDENT, Reason.NO_GAIN)
    assert sdk.call_or_value(client.explain(GREEN)).calibration is not None
    assert (server.requests, server.scored) == ([], [])


def test_choosing_among_other_texts_is_left_to_the_model(sdk, tmp_path, kind):
    _, client = made(sdk, tmp_path, kind)
    found = sdk.call(client.choose(GREEN, ["green", "blue"], blend="mine"))
    assert found.text == "green", "one known answer is no set to choose from"


def test_only_so_many_samples_stay_in_memory_and_the_others_are_read_again(sdk, tmp_path, monkeypatch):
    monkeypatch.setattr(customizations, "MOST_IN_MEMORY", 2)
    client = sdk.make(Closed(reads=True), customizations_dir=tmp_path)
    for i in range(4):
        samples = [(f"which colour has thing {i} {j}", ANSWERS[j % 2]) for j in range(16)]
        sdk.call(client.customize(f"mine{i}", samples))
    assert len(client._core.customizations._drafts) == 2
    for i in range(4):
        found = sdk.call(client.ask(GREEN, blend=f"mine{i}"))
        assert (found.text, "examples" in found.route.evidence) == ("green", True)
    assert len(client._core.customizations._drafts) == 2


def test_free_is_no_option_of_a_choice(sdk, tmp_path):
    _, client = made(sdk, tmp_path, {"reads": False})
    with pytest.raises((TypeError, InvalidRequestError)):
        sdk.call(client.choose(GREEN, ANSWERS, blend="mine", free=True))
