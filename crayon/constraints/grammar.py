"""A constraint as a grammar of llguidance, and how much one may cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crayon.constraint import ConstraintKind, read_schema

if TYPE_CHECKING:
    from llguidance import LLParserLimits

    from crayon.constraint import Constraint

OPTIONS: dict[str, Any] = {
    # As `json.dumps` writes: a model that may write spaces and newlines where it likes may write nothing else.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # What is not understood is refused, not left out; and `oneOf` is not taken for `anyOf`.
    "lenient": False,
    "coerce_one_of": False,
}
"""How JSON is written, and what becomes of keywords that llguidance lacks. No schema may say otherwise."""
ANY_OBJECT: dict[str, object] = {"type": "object"}
NOTHING: dict[str, object] = {"enum": []}


def schema_of(constraint: Constraint) -> dict[str, object]:
    """Return the JSON schema of a constraint that is one, with `OPTIONS` in it: whoever reads it reads the same.

    Raises:
        InvalidRequestError: it is none.
    """
    schema = ANY_OBJECT if constraint.kind is ConstraintKind.JSON else read_schema(constraint.text)
    if isinstance(schema, bool):
        schema = {} if schema else NOTHING
    return {**schema, "x-guidance": OPTIONS}


def lark_of(choices: tuple[str, ...]) -> str:
    """Return a grammar of given texts, one of which is written."""
    return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def grammar_of(constraint: Constraint) -> str:
    """Return a constraint as llguidance takes it; whether it can be kept is not looked at.

    Raises:
        InvalidRequestError: it is no JSON schema.
        ValueError: llguidance cannot read it.
    """
    from llguidance import LLMatcher

    if constraint.is_json:
        return LLMatcher.grammar_from_json_schema(schema_of(constraint))
    if constraint.kind is ConstraintKind.REGEX:
        return LLMatcher.grammar_from_regex(constraint.text)
    if constraint.kind is ConstraintKind.CHOICES:
        return LLMatcher.grammar_from_lark(lark_of(constraint.choices))
    return LLMatcher.grammar_from_lark(constraint.text)


def limits() -> LLParserLimits:
    """Return what a grammar may cost, in llguidance's own units.

    The worst that was found to keep to them took half a second and 60 MB: `((a{1000}){1000})`, and a schema of two
    thousand properties none of which is required. Common schemas take a thousandth of that.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=300_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=20_000,
        verbose_errors=False,  # they would quote the schema and the answer
    )
