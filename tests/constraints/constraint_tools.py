"""Schemas for tests, and what stands in for a model."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from crayon.constraint import Constraint, ConstraintKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.constraints import Matcher

NAMES = st.sampled_from(["name", "a b", 'q"', "größe", "x"])
TEXTS = st.sampled_from(["", "yes", 'say "no"', "größe", "a\nb", "\u2028", "😀"])


def of_schema(schema: Any, **more: Any) -> Constraint:
    return Constraint(ConstraintKind.SCHEMA, json.dumps(schema), **more)


def of_regex(regex: str) -> Constraint:
    return Constraint(ConstraintKind.REGEX, regex)


def of_choices(*choices: str, **more: Any) -> Constraint:
    return Constraint(ConstraintKind.CHOICES, choices=choices, **more)


def of_grammar(grammar: str) -> Constraint:
    return Constraint(ConstraintKind.GRAMMAR, grammar)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def made(properties: dict[str, Any], some: int) -> dict[str, Any]:
        required = sorted(properties)[: some % (len(properties) + 1)]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    return st.builds(made, st.dictionaries(NAMES, inner, max_size=3), st.integers(0, 3))


schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "integer", "minimum": -3, "maximum": 120},
            {"type": "string", "maxLength": 4},
            {"type": "string", "minLength": 2, "maxLength": 3},
            {"type": "string", "pattern": "^[a-c]{1,3}$"},
            {"type": "string", "format": "date"},
            {"const": {"k": [1, "two"]}},
        ]
    )
    | st.lists(TEXTS, min_size=1, max_size=4, unique=True).map(lambda texts: {"enum": texts}),
    lambda inner: (
        _objects(inner)
        | st.builds(lambda items: {"type": "array", "items": items, "maxItems": 2}, inner)
        | st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)
    ),
    max_leaves=5,
)
"""JSON schemas whose documents are all short."""


def walk(matcher: Matcher, seed: int, piece: Callable[[int], bytes], *, most: int = 600) -> bytes:
    """Write an answer of tokens drawn at random from those that are allowed; it must be whole within `most` tokens."""
    rng = random.Random(seed)
    written = b""
    for _ in range(most):
        forced = matcher.forced()
        if forced:
            matcher.take(forced)
            written += b"".join(map(piece, forced))
        if matcher.done:
            return written
        allowed = [token for token in matcher.mask().nonzero()[0].tolist() if piece(token)]
        if matcher.accepts and (not allowed or rng.random() < 0.5):
            return written
        token = rng.choice(allowed)
        assert matcher.allows(token)
        matcher.take([token])
        written += piece(token)
    raise AssertionError(f"no end: {written!r}")
