"""What a constraint may say, before anybody tries to keep it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crayon.constraint import (
    MAX_CONSTRAINT_BYTES,
    MAX_CONSTRAINT_CHOICES,
    MAX_SCHEMA_DEPTH,
    Constraint,
    ConstraintKind,
)
from crayon.engine import GenerateRequest
from crayon.errors import InvalidRequestError
from crayon.messages import Message
from crayon.sampling import Sampling


def schema(value: object) -> Constraint:
    return Constraint(ConstraintKind.SCHEMA, json.dumps(value))


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"items": value}
    return value


@pytest.mark.parametrize(
    ("kind", "text", "choices", "words"),
    [
        ("schema", "", (), "response_format: is empty"),
        ("schema", "{", (), "response_format: is no JSON"),
        ("schema", '{"minimum": NaN}', (), "NaN is no number"),
        ("schema", "[1]", (), "must be a JSON schema"),
        ("schema", "[" * 50_000 + "]" * 50_000, (), "deep"),
        ("schema", json.dumps({"enum": ["x" * MAX_CONSTRAINT_BYTES]}), (), "bytes"),
        ("regex", " ", (), "regex: is empty"),
        ("regex", "\ud800", (), "surrogate"),
        ("regex", 7, (), "regex: must be text"),
        ("grammar", "", (), "grammar: is empty"),
        ("choices", "", (), f"choices: must hold 1 to {MAX_CONSTRAINT_CHOICES}"),
        ("choices", "", "yes", "choices: must be a list"),
        ("choices", "", ("a", ""), r"choices\[1\]: must be a non-empty"),
        ("choices", "", ("x",) * (MAX_CONSTRAINT_CHOICES + 1), "1001"),
    ],
)
def test_what_is_no_constraint_is_refused_by_the_name_that_callers_use(
    kind: str, text: Any, choices: Any, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        Constraint(ConstraintKind(kind), text, choices)


def test_schemas_may_be_as_deep_as_is_said() -> None:
    schema(nested(MAX_SCHEMA_DEPTH))
    with pytest.raises(InvalidRequestError, match=rf"more than {MAX_SCHEMA_DEPTH} deep; move inner parts to \$defs"):
        schema(nested(MAX_SCHEMA_DEPTH + 1))


def test_an_end_cannot_be_ignored_where_an_answer_has_one_of_its_own() -> None:
    with pytest.raises(InvalidRequestError, match="ignore_eos: cannot be set beside regex"):
        GenerateRequest(
            messages=(Message("user", "x"),),
            sampling=Sampling(ignore_eos=True),
            constraint=Constraint(ConstraintKind.REGEX, "a"),
        )
