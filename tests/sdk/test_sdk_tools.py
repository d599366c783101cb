"""Tools and thoughts through the SDK, on both sides and over the wire, with the engine that says things back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import pytest
from pydantic import Field
from serving_tools import Serving

from crayon import Crayon
from crayon.completion import FinishReason
from crayon.errors import InvalidRequestError
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def add(a: int, b: Annotated[int, Field(ge=0)] = 1) -> int:
    """Add two numbers.

    More than the model needs to know.
    """
    return a + b


@pytest.fixture(params=["device", "server"])
def client(request: pytest.FixtureRequest) -> Iterator[Crayon]:
    if request.param == "device":
        with Crayon(EchoEngine()) as made:
            yield made
        return
    with Serving(EchoEngine) as serving, Crayon(None, serving.address) as made:
        yield made


def test_a_call_is_told_apart_from_the_text(client: Crayon) -> None:
    answer = client.ask(f"Let me see.\n{CALL}", tools=[add])
    (call,) = answer.tool_calls
    assert (answer.text, call.name, call.parsed) == ("Let me see.", "add", {"a": 2, "b": 3})
    assert answer.finish_reason is FinishReason.TOOL_CALLS
    assert call.id.startswith("call_")


def test_without_tools_the_same_words_are_text(client: Crayon) -> None:
    answer = client.ask(CALL)
    assert (answer.text, answer.tool_calls) == (CALL, ())
    assert client.ask(CALL, tools=[add], tool_choice="none").text == CALL


@pytest.mark.parametrize("choice", ["required", "add", {"type": "function", "function": {"name": "add"}}])
def test_a_call_that_has_to_be_made_is_made(client: Crayon, choice: object) -> None:
    answer = client.ask("hello", tools=[add], tool_choice=choice)
    assert not answer.text
    assert answer.tool_calls[0].name == "add"
    assert isinstance(answer.tool_calls[0].parsed["a"], int)


def test_thoughts_are_no_part_of_the_answer(client: Crayon) -> None:
    with client.stream("<think>\nHm, so.\n</think>\n\nYes.") as stream:
        pieces = list(stream)
        done = stream.completion
    assert "".join(piece.text for piece in pieces) == done.text == "Yes."
    assert "".join(piece.reasoning for piece in pieces) == done.reasoning == "Hm, so."
    assert 0 < done.usage.reasoning_tokens < done.usage.completion_tokens


def test_thoughts_are_sent_on_only_where_that_is_asked_for(client: Crayon) -> None:
    said = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "one two three"},
        {"role": "user", "content": "c"},
    ]
    short = client.ask(said).usage.prompt_tokens
    assert client.ask(said, keep_reasoning=True).usage.prompt_tokens == short + 3


def test_results_of_calls_are_part_of_a_conversation(client: Crayon) -> None:
    first = client.ask(CALL, tools=[add])
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "5"}
    answer = client.ask([{"role": "user", "content": "Two and three?"}, first.message, result], tools=[add])
    assert answer.text == "Two and three?"


def test_openais_form_is_taken(client: Crayon) -> None:
    function = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    answer = client.ask("x", tools=[{"type": "function", "function": function}], tool_choice="required")
    assert answer.tool_calls[0].name == "add"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tools": "add"}, "tools"),
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools.name"),
        ({"tools": [add, add]}, "tools"),
        ({"tools": [lambda *numbers: 1]}, "tools[0].<lambda>"),
        ({"tools": [add], "tool_choice": "sub"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [add], "response_format": "json"}, "response_format"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: Crayon, options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.ask("hello", **options)
    assert caught.value.field == field


def test_what_was_redacted_comes_back_in_calls_and_thoughts() -> None:
    from crayon.privacy.redaction import restored_json

    given = json.dumps({"to": "[EMAIL_1]", "more": ['[EMAIL_1] "x"', 1]})
    assert json.loads(restored_json(given, {"[EMAIL_1]": 'a"b@c.d'})) == {"to": 'a"b@c.d', "more": ['a"b@c.d "x"', 1]}
