"""What the model is told of a constraint."""

from __future__ import annotations

from typing import Any

import pytest
from constraint_tools import of_choices, of_grammar, of_regex, of_schema, schemas
from hypothesis import given

from crayon.constraint import Constraint, ConstraintKind
from crayon.constraints.shown import instruction, read_prompt, shown
from crayon.messages import Message

LEG = {"type": "object", "properties": {"start": {"type": "string"}, "day": {"description": "a weekday"}}}
TELL = (Message("system", "Be brief."), Message("user", "Where to?"))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"city": {}}}, "Answer with JSON that has city."),
        ({"properties": {"city": {}, "day": {}, "hour": {}}}, "Answer with JSON that has city, day and hour."),
        (LEG, "Answer with JSON that has start and day (a weekday)."),
        ({"items": LEG}, "Answer with JSON that has a list with start and day (a weekday) each."),
        (
            {"properties": {"legs": {"items": {"$ref": "#/$defs/leg"}}, "kind": {}}, "$defs": {"leg": LEG}},
            "Answer with JSON that has legs (a list with start and day (a weekday) each) and kind.",
        ),
        (
            {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"anyOf": [{"type": "null"}, {"properties": {"x": {}}}]}}},
            "Answer with JSON that has x.",
        ),
        ({"anyOf": [{"properties": {"x": {}}}, {"properties": {"y": {}}}]}, "Answer with JSON that has x or y."),
        ({"type": "integer"}, 'fits this JSON schema, and with nothing else:\n{"type": "integer"}'),
    ],
    ids=str,
)
def test_a_schema_is_told_by_its_names(schema: Any, words: str) -> None:
    assert instruction(of_schema(schema)).endswith(words)


def test_a_schema_that_refers_to_itself_is_told_to_some_depth() -> None:
    node = {"properties": {"value": {}, "next": {"$ref": "#"}}}
    assert len(instruction(of_schema(node))) < 200
    assert instruction(of_schema({"$ref": "#"}))
    assert instruction(of_schema({"properties": {"x": {"$ref": "#/gone"}}})) == "Answer with JSON that has x."


@given(schemas)
def test_every_schema_is_told_somehow(schema: Any) -> None:
    assert instruction(of_schema(schema)).startswith("Answer with JSON")


def test_choices_are_told_and_what_no_model_reads_is_not() -> None:
    assert instruction(of_choices("yes", "no")).endswith(":\nyes\nno")
    assert instruction(Constraint(ConstraintKind.JSON))
    assert instruction(of_regex("[a-z]")) == instruction(of_grammar('start: "a"')) == ""


def test_it_stands_behind_the_last_message_and_its_tokens_are_counted() -> None:
    told = shown(TELL, of_choices("yes", "no"))
    assert told[0] == TELL[0]
    assert told[1].content.startswith("Where to?\n\nAnswer with one of these")
    assert shown(TELL, None) == shown(TELL, of_choices("yes", show=False)) == shown(TELL, of_regex("a")) == TELL

    def letters(messages: Any) -> list[int]:
        return [0] * sum(len(message.content) for message in messages)

    tokens, count = read_prompt(TELL, of_choices("yes", "no"), letters)
    assert count == len(tokens) - len(letters(TELL)) == len(told[1].content) - len("Where to?")
    assert read_prompt(TELL, None, letters) == (letters(TELL), 0)
