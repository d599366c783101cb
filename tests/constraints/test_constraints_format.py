"""From a caller's type, schema or words to a constraint, and from the answer back to an object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # before Python 3.12, pydantic takes no other

from crayon.completion import Document, FinishReason
from crayon.constraint import ConstraintKind
from crayon.constraints.response_format import form_of
from crayon.errors import InvalidRequestError


@dataclass
class Leg:
    start: str
    day: date


@dataclass
class Trip:
    legs: list[Leg]
    kind: Literal["work", "fun"] = "fun"


class Person(BaseModel):
    name: str = Field(max_length=20)
    boss: Person | None = None


class Point(TypedDict):
    x: int
    title: str


class Colour(Enum):
    RED = "red"


def read(text: str, kind: Any, reason: FinishReason = FinishReason.STOP) -> Any:
    form = form_of(response_format=kind)
    assert form is not None
    document = form.read(text, reason)
    assert document is not None
    assert not document.problem, document.problem
    return document.value


def test_an_answer_becomes_an_object_of_the_callers_type() -> None:
    trip = read('{"legs": [{"start": "Oslo", "day": "2026-12-01"}], "kind": "work"}', Trip)
    assert trip == Trip([Leg("Oslo", date(2026, 12, 1))], "work")
    assert read('{"name": "Ada", "boss": null}', Person) == Person(name="Ada")
    assert read('{"x": 1, "title": "t"}', Point) == {"x": 1, "title": "t"}
    assert read('"red"', Colour) is Colour.RED
    assert read("[1, 2]", list[int]) == [1, 2]
    assert read('{"a": [null]}', {"type": "object"}) == {"a": [None]}
    assert read("{}", "json") == {}


def test_a_types_schema_is_tight_and_a_callers_own_is_left_alone() -> None:
    form = form_of(response_format=Point)
    assert form is not None
    schema = json.loads(form.constraint.text)
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == ["x", "title"]  # a property called title is none of pydantic's titles
    assert "title" not in schema
    assert "title" not in schema["properties"]["x"]
    mine = {"title": "t", "type": "object", "properties": {"b": {}, "a": {}}}
    form = form_of(response_format=mine)
    assert form is not None
    assert form.constraint.text == json.dumps(mine)


def test_openais_objects_around_a_schema_are_taken() -> None:
    schema = {"type": "integer"}
    wrapped = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    assert form_of(response_format=wrapped) == form_of(response_format=schema)
    assert form_of(response_format={"type": "json_object"}) == form_of(response_format="json")
    assert form_of(response_format={"type": "text"}) is None
    assert form_of() is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"response_format": "xml"}, "response_format: must be 'json', a JSON schema or a type"),
        ({"response_format": 7}, "response_format: must be 'json'"),
        ({"response_format": {"type": "json_schema"}}, r"response_format.json_schema.schema: must be a JSON schema"),
        ({"response_format": {"enum": [object()]}}, "response_format: cannot be written as JSON"),
        ({"response_format": set[int]}, "response_format: the keyword 'uniqueItems'"),
        ({"response_format": "json", "regex": "a"}, "regex: cannot be given beside response_format"),
        ({"choices": "abc"}, "choices: must be a list of texts"),
        ({"choices": 7}, "choices: must be a list of texts"),
        ({"regex": 7}, "regex: must be text"),
        ({"regex": "a", "show_format": "no"}, "show_format: must be True or False"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        form_of(**given)


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ('{"legs": [{"start": "Os', FinishReason.LENGTH, "cut at max_tokens"),
        ('{"legs": [{"start": "Os', FinishReason.STOP, "is not what response_format asks for"),  # by a stop text
        ('{"legs": [{"start": "a", "day": "2026-02-31"}]}', FinishReason.STOP, "day"),
    ],
)
def test_what_is_no_whole_document_is_none(text: str, reason: FinishReason, words: str) -> None:
    form = form_of(response_format=Trip)
    assert form is not None
    document = form.read(text, reason)
    assert document is not None
    assert words in document.problem


def test_a_number_that_may_have_been_cut_is_no_whole_document() -> None:
    form = form_of(response_format={"type": "integer"})
    assert form is not None
    cut, whole = (form.read("12", reason) for reason in (FinishReason.LENGTH, FinishReason.STOP))
    assert cut is not None
    assert cut.problem
    assert whole == Document(12)


def test_only_json_is_a_document() -> None:
    for given_ in ({"regex": "[0-9]"}, {"choices": ["1"]}, {"grammar": 'start: "1"'}):
        form = form_of(**given_)
        assert form is not None
        assert form.read("1", FinishReason.STOP) is None
        assert form.so_far("1") is None


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict | list))


@given(documents, st.booleans())
def test_every_beginning_of_a_document_says_something_and_the_whole_says_all(value: Any, ascii_only: bool) -> None:
    form = form_of(response_format={})
    assert form is not None
    text = json.dumps(value, ensure_ascii=ascii_only)
    found = [form.so_far(text[:n]) for n in range(1, len(text) + 1)]
    assert found[-1] == value
    assert all(isinstance(part, type(value)) for part in found)


def test_a_choice_is_no_type() -> None:
    form = form_of(choices=["a", "b"], show_format=False)
    assert form is not None
    assert (form.constraint.kind, form.constraint.choices, form.constraint.show) == (
        ConstraintKind.CHOICES,
        ("a", "b"),
        False,
    )
