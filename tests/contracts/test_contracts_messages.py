"""Messages and requests: what callers pass in is checked once and refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from crayon.engine import EncodeRequest, ScoreRequest
from crayon.errors import InvalidRequestError
from crayon.messages import Message, normalise_messages

QUESTION = Message("user", "Why?")


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
        ([QUESTION, Message("assistant", "Because.")], "messages[1].role"),
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
