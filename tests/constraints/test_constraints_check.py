"""Which constraints are refused, and in which words: the same on every side, since every side asks here."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from constraint_tools import of_choices, of_grammar, of_regex, of_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.constraint import Constraint, ConstraintKind
from crayon.constraints import check_constraint
from crayon.errors import InvalidRequestError


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint(ConstraintKind.JSON),
        of_schema(True),
        of_schema({}),
        of_schema({"type": "string", "format": "email"}),
        of_schema({"$defs": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}, "$ref": "#/$defs/n"}),
        of_schema({"oneOf": [{"type": "integer"}, {"type": "string"}]}),
        of_schema({"title": "unknown words are no matter", "x-mine": 1}),
        of_regex(r"\d{3}-[a-z]+"),
        of_choices("yes", 'say "no"\n\\', "größe 😀"),
        of_grammar('start: "From " WORD\nWORD: /[A-Z][a-z]+/'),
    ],
    ids=str,
)
def test_these_can_be_kept(constraint: Constraint) -> None:
    check_constraint(constraint)


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (
            of_schema({"properties": {"x": {"not": {"type": "string"}}}}),
            "response_format: the keyword 'not' at /properties/x cannot be kept; leave out, and check in the answer",
        ),
        (of_schema({"if": {}, "then": {}}), "the keywords 'if' and 'then' cannot be kept"),
        (of_schema({"items": {"format": "iban"}}), "the keyword 'format' at /items has no format 'iban'"),
        (of_schema({"type": "strin"}), "the keyword 'type' cannot be used: Invalid type: strin"),
        (of_schema({"$ref": "http://example.com/x"}), r"the keyword '\$ref' cannot be used"),
        (of_schema({"$ref": "#/$defs/gone"}), r"the keyword '\$ref' cannot be used"),
        (of_schema({"pattern": "(?=a)b"}), "the keyword 'pattern' or 'patternProperties' cannot be used: .*look-ahead"),
        (of_schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "the keyword 'oneOf' cannot be used"),
        (of_schema({"enum": []}), "allows no answer"),
        (of_schema(False), "allows no answer"),
        (of_schema({"type": "integer", "minimum": 5, "maximum": 1}), r"allows no answer: minimum \(5\)"),
        (of_schema({"$ref": "#"}), "allows no answer, since it refers to itself"),
        (of_schema({"minimum": 10**40}), "cannot be used: .*100000"),
        (of_schema({"x-guidance": {"lenient": True}, "not": {}}), "the keyword 'not' cannot be kept"),
        (of_regex("("), "regex: cannot be used: .*unclosed group"),
        (of_regex(r"(a)\1"), "regex: cannot be used: .*backreferences"),
        (of_grammar("start: x"), 'grammar: cannot be used: unknown name: "x"'),
        (of_grammar("start: start"), "grammar: allows no answer"),
        (of_grammar('start: "a" start'), "grammar: "),
        (of_grammar("start: <|im_end|>"), "grammar: cannot be used: unknown special token"),
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_refused_by_the_name_of_the_keyword(constraint: Constraint, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        check_constraint(constraint)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {f"k{i}": {"type": "string"} for i in range(4000)}},
        {"allOf": [{"anyOf": [{"pattern": f"^a{i}b{j}.*"} for j in range(6)]} for i in range(6)]},
        {"allOf": [{"anyOf": [{"properties": {f"p{i}_{j}": {}}} for j in range(4)]} for i in range(8)]},
    ],
    ids=["wide", "product", "product of objects"],
)
def test_a_hostile_schema_costs_too_much_and_says_so(schema: Any) -> None:
    with pytest.raises(InvalidRequestError, match="costs too much to keep"):
        check_constraint(of_schema(schema))


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["string", "object", "a", "#"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "items", "properties", "anyOf", "enum", "$ref", "minLength", "pattern", "x-guidance"]),
        inner, max_size=3,
    ), max_leaves=8,
))  # fmt: skip
@settings(deadline=None)
def test_no_schema_does_anything_but_pass_or_be_refused(schema: Any) -> None:
    with suppress(InvalidRequestError):
        check_constraint(of_schema(schema))
