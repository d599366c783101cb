"""A conversation whose context is full: the oldest turns slide out, or it fails, as it was asked to."""

import pytest
from sdk_fakes import Fake, FakeServer, answer

from crayon.completion import Source
from crayon.errors import InvalidRequestError, PromptTooLongError
from crayon.messages import Message
from crayon.sdk.sliding import oldest_to_drop

FULL = PromptTooLongError(1010, 999)


def sent(engine):
    return [message.content for message in engine.requests[-1].messages]


def talk(sdk, conversation, *texts):
    return [sdk.call(conversation.ask(text)).text for text in texts]


def test_the_oldest_turns_slide_out_and_the_answer_comes(sdk):
    device = Fake("small", [answer("a1"), answer("a2"), answer("a3"), FULL, answer("a4"), answer("a5")])
    conversation = sdk.make(device).chat(system="Be brief.")
    talk(sdk, conversation, "q1", "q2", "q3", "q4")
    assert sent(device)[0] == "Be brief."
    assert "q1" not in sent(device)
    assert sent(device)[-1] == "q4"
    assert conversation.left_out >= 2
    assert [message.content for message in conversation.messages][1:3] == ["q1", "a1"], "nothing is forgotten"
    talk(sdk, conversation, "q5")
    assert "q1" not in sent(device)
    conversation.clear()
    assert conversation.left_out == 0


def test_it_fails_where_that_was_chosen(sdk):
    device = Fake("small", [answer("a1"), FULL])
    conversation = sdk.make(device).chat(when_full="fail")
    talk(sdk, conversation, "q1")
    with pytest.raises(PromptTooLongError):
        talk(sdk, conversation, "q2")
    assert conversation.left_out == 0


def test_a_question_that_does_not_fit_alone_fails(sdk):
    device = Fake("small", [answer("a1"), FULL, FULL])
    conversation = sdk.make(device).chat()
    talk(sdk, conversation, "q1")
    with pytest.raises(PromptTooLongError):
        talk(sdk, conversation, "q2")
    assert len(device.requests) == 3


def test_a_server_that_has_room_answers_before_anything_slides(sdk):
    device, server = Fake("small", [FULL]), FakeServer("large")
    conversation = sdk.make(device, server).chat([Message("user", "q1"), Message("assistant", "a1")])
    assert sdk.call(conversation.ask("q2")).route.source is Source.SERVER
    assert conversation.left_out == 0


def test_what_is_known_of_messages_slides_with_them(sdk):
    device = Fake("small", [answer("a1"), answer("a2"), FULL, answer("a3")])
    conversation = sdk.make(device).chat()
    talk(sdk, conversation, "q1", "q2")
    conversation._held, conversation._clean = {0, 2, 3}, {1}
    talk(sdk, conversation, "q3")
    assert conversation.left_out == 2
    past = conversation._sent(conversation.messages)["past"]
    assert past.private == {0, 1}
    assert past.clean == frozenset()


def test_another_choice_is_refused(sdk):
    with pytest.raises(InvalidRequestError, match="when_full"):
        sdk.make(Fake("small")).chat(when_full="forget")


@pytest.mark.parametrize(("tokens", "wanted"), [(1001, 2), (1500, 10), (10**6, 20)])
def test_as_much_goes_as_leaves_a_quarter_free(tokens, wanted):
    history = [Message(role, "x" * 50) for _ in range(10) for role in ("user", "assistant")]
    found = oldest_to_drop(history, tokens, 1000)
    assert found % 2 == 0
    assert abs(found - wanted) <= 4
    assert oldest_to_drop(history[:1], tokens, 1000) == 0
