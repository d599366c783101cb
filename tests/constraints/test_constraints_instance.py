"""Answers made without a model fit."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from constraint_tools import of_choices, of_grammar, of_regex, of_schema, schemas
from hypothesis import given, settings

from crayon.constraint import Constraint, ConstraintKind
from crayon.constraints.instance import Instances

INSTANCES = Instances()


@given(schemas)
@settings(deadline=None)
def test_an_instance_of_a_schema_is_valid(schema: Any) -> None:
    text, whole = INSTANCES.of(of_schema(schema), 2000)
    assert whole
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    assert INSTANCES.of(of_schema(schema), 2000) == (text, True)


def test_other_constraints_have_instances_too() -> None:
    assert re.fullmatch("(ab)*cd{3}", INSTANCES.of(of_regex("(ab)*cd{3}"), 500)[0])
    assert INSTANCES.of(of_choices("yes", "no"), 500)[0] in {"yes", "no"}
    assert re.fullmatch("a*b", INSTANCES.of(of_grammar('start: "a" start | "b"'), 500)[0])
    assert json.loads(INSTANCES.of(Constraint(ConstraintKind.JSON), 500)[0]) is not None


@pytest.mark.parametrize("most", [1, 5, 9])
def test_what_does_not_fit_into_the_room_is_cut_and_says_so(most: int) -> None:
    text, whole = INSTANCES.of(of_choices("größe über alles"), most)
    assert not whole
    assert "größe über alles".startswith(text)
    assert len(text.encode()) <= most
