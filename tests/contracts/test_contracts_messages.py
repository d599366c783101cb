"""Messages and requests: what callers pass in is checked once and refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from crayon.engine import EncodeRequest, ScoreRequest
from crayon.errors import InvalidRequestError
from crayon.messages import Message, ToolCall, normalise_messages, question

QUESTION = Message("user", "Why?")
CALL = ToolCall("c1", "now", '{"zone": "UTC"}')


@pytest.mark.parametrize(
    "value",
    [
        "Why?",
        QUESTION,
        {"role": "user", "content": "Why?"},
        [QUESTION],
        [{"role": "user", "content": "Why?"}],
        iter([QUESTION]),
    ],
)
def test_every_way_to_ask_is_the_same_message(value: Any) -> None:
    assert normalise_messages(value) == (QUESTION,)


def test_a_conversation_keeps_its_order_and_may_hold_empty_answers() -> None:
    turns = (Message("system", ""), Message("user", "a"), Message("assistant", ""), Message("user", "b"))
    assert normalise_messages(turns) == turns


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "messages"),
        (None, "messages"),
        (5, "messages"),
        ("", "messages[0].content"),
        (" \n\t", "messages[0].content"),
        ([QUESTION, 3], "messages[1]"),
        (["Why?"], "messages[0]"),
        ([{"content": "Why?"}], "messages[0].role"),
        ([{"role": "wizard", "content": "Why?"}], "messages[0].role"),
        ([{"role": ["user"], "content": "Why?"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": b"Why?"}], "messages[0].content"),
        ([{"role": "user", "content": "Why?", "name": "me"}], "messages[0].name"),
        ([Message("user", "a"), Message("user", "\ud800")], "messages[1].content"),
        ([QUESTION, Message("assistant", " ")], "messages[1].role"),
        ([QUESTION, Message("assistant", "", (CALL,))], "messages[1].role"),
        ([Message("assistant", "Because")], "messages[0].role"),
        ([QUESTION, Message("tool", "12")], "messages[1].role"),
        ([QUESTION, Message("assistant", "", (CALL,)), Message("tool", "12", (), "c2")], "messages[2].tool_call_id"),
        ([Message("user", "Why?", (CALL,))], "messages[0].tool_calls"),
        ([Message("user", "Why?", (), "c1")], "messages[0].tool_call_id"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([QUESTION, {"role": "assistant", "tool_calls": ["f"]}], "messages[1].tool_calls[0]"),
        ([QUESTION, {"role": "assistant", "tool_calls": [{"function": {}}]}], "messages[1].tool_calls[0].name"),
        ([Message("system", "Be brief.")], "messages[0].role"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(value: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        normalise_messages(value)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("texts", "field"),
    [((), "{}"), (("a", ""), "{}[1]"), (("a", 3), "{}[1]"), (("a", "b\udfff"), "{}[1]")],
)
def test_texts_that_cannot_be_read_are_refused_by_name(texts: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        EncodeRequest(texts=texts)
    assert caught.value.field == field.format("texts")
    with pytest.raises(InvalidRequestError) as caught:
        ScoreRequest(messages=(QUESTION,), continuations=texts)
    assert caught.value.field == field.format("continuations")


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Why"}, {"type": "input_text", "text": "not?"}]
    assert normalise_messages([{"role": "user", "content": parts}]) == (Message("user", "Why\nnot?"),)


def test_the_developer_is_the_system_and_what_the_system_says_stands_in_front() -> None:
    given = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "system", "content": "Be kind."},
    ]
    assert normalise_messages(given) == (Message("system", "Be brief.\n\nBe kind."), QUESTION)


def test_a_last_message_of_the_assistants_begins_the_answer() -> None:
    turns = (QUESTION, Message("assistant", "Because"))
    assert normalise_messages(turns) == turns
    assert question(turns) == "Why?"


def test_calls_and_their_results_come_in_openais_form() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    given = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00", "name": "now"},
    ]
    found = normalise_messages(given)
    assert found == (QUESTION, Message("assistant", "", (CALL,)), Message("tool", "12:00", (), "c1"))
    assert found[1].tool_calls[0].parsed == {"zone": "UTC"}
    assert normalise_messages(found) == found


def test_all_that_a_message_says_can_be_looked_at_and_replaced() -> None:
    message = Message("assistant", "a", (CALL,), reasoning="b")
    assert message.texts == ("a", "b", CALL.arguments)
    assert message.with_texts(("x", "y", "{}")).texts == ("x", "y", "{}")
