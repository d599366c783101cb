"""From what callers write (a type of theirs, a schema, an expression, choices, a grammar) to a constraint, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crayon.completion import Document, FinishReason
from crayon.constraint import Constraint, ConstraintKind
from crayon.constraints.check import check_constraint
from crayon.errors import InvalidRequestError

_FIELD = "response_format"
_NESTED = ("properties", "patternProperties", "$defs", "definitions")  # names to schemas
_LISTED = ("anyOf", "allOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")


@dataclass(frozen=True, slots=True)
class Form:
    """What a call's answer must look like, and what it is made of.

    Args:
        constraint: what the engine keeps.
        adapter: pydantic's `TypeAdapter` of the caller's type; None: plain values.
    """

    constraint: Constraint
    adapter: Any = None

    def read(self, text: str, reason: FinishReason) -> Document | None:
        """Return what a complete answer says; None where it is no document, but a text."""
        if not self.constraint.is_json:
            return None
        try:
            value = json.loads(text)
            made = Document(value if self.adapter is None else self.adapter.validate_json(text))
        except ValueError as error:  # pydantic's is one too
            said = " ".join(str(error).split())[:300]
            value, made = 0, Document(problem=f"is not what {_FIELD} asks for: {said}")
        if reason is FinishReason.LENGTH and isinstance(value, int | float):  # a number may have been cut, too
            return Document(problem="was cut at max_tokens, so it is no whole document; allow more of them")
        return made

    def so_far(self, text: str) -> Any:
        """Return what an answer that is still being written says: plain values, None before the first."""
        if not self.constraint.is_json or not text.strip():
            return None
        from pydantic_core import from_json

        try:
            return from_json(text, allow_partial="trailing-strings")
        except ValueError:  # not even a beginning
            return None


def form_of(
    *,
    response_format: object = None,
    regex: str | None = None,
    choices: Iterable[str] | None = None,
    grammar: str | None = None,
    show_format: bool = True,
) -> Form | None:
    """Return what a caller's keywords ask for, checked; None where they ask for nothing.

    Raises:
        InvalidRequestError: one is wrong, cannot be kept, or there are several.
    """
    if not isinstance(show_format, bool):
        raise InvalidRequestError("show_format", f"must be True or False, not {show_format!r}")
    given = {"response_format": response_format, "regex": regex, "choices": choices, "grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return None
    if len(names) > 1:
        raise InvalidRequestError(names[1], f"cannot be given beside {names[0]}; an answer has one form")
    if regex is not None:
        form = Form(Constraint(ConstraintKind.REGEX, regex, show=show_format))
    elif grammar is not None:
        form = Form(Constraint(ConstraintKind.GRAMMAR, grammar, show=show_format))
    elif choices is not None:
        some = choices if isinstance(choices, str) or not isinstance(choices, Iterable) else tuple(choices)
        form = Form(Constraint(ConstraintKind.CHOICES, choices=some, show=show_format))  # type: ignore[arg-type]  # it says what is wrong
    else:
        found = _format(response_format, show=show_format)
        if found is None:
            return None
        form = found
    check_constraint(form.constraint)
    return form


def _format(value: object, *, show: bool) -> Form | None:
    if isinstance(value, str):
        if value != "json":
            raise InvalidRequestError(_FIELD, f"must be 'json', a JSON schema or a type, not {value[:40]!r}")
        return Form(Constraint(ConstraintKind.JSON, show=show))
    if isinstance(value, Mapping):
        return _mapping(value, show=show)
    return _typed(value, show=show)


def _mapping(value: Mapping[str, Any], *, show: bool) -> Form | None:
    """Return the form of a JSON schema, or of OpenAI's object around one."""
    match value.get("type"):
        case "text" if set(value) == {"type"}:
            return None
        case "json_object" if set(value) == {"type"}:
            return Form(Constraint(ConstraintKind.JSON, show=show))
        case "json_schema":
            inner = value.get("json_schema")
            schema = inner.get("schema") if isinstance(inner, Mapping) else None
            if not isinstance(schema, Mapping):
                raise InvalidRequestError(f"{_FIELD}.json_schema.schema", "must be a JSON schema")
            value = schema
    return Form(Constraint(ConstraintKind.SCHEMA, _text(value), show=show))


def _typed(value: Any, *, show: bool) -> Form:
    """Return the form of a Pydantic model, a dataclass, a TypedDict, or whatever else pydantic has a schema of."""
    from pydantic import PydanticUserError, TypeAdapter

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(value)
        schema = adapter.json_schema()
    except (PydanticUserError, TypeError, ValueError, NameError) as error:
        said = " ".join(str(error).split())[:200]
        problem = f"must be 'json', a JSON schema or a type with one, not {value!r:.60} ({said})"
        raise InvalidRequestError(_FIELD, problem) from None
    return Form(Constraint(ConstraintKind.SCHEMA, _text(tight(schema)), show=show), adapter)


def tight(schema: Any) -> Any:
    """Return a schema of a type without titles, which say nothing new, and whose objects have no other properties."""
    if not isinstance(schema, dict):
        return schema
    made = {key: value for key, value in schema.items() if key != "title"}
    for key in _NESTED:
        if isinstance(made.get(key), dict):
            made[key] = {name: tight(inner) for name, inner in made[key].items()}
    for key in _LISTED:
        if isinstance(made.get(key), list):
            made[key] = [tight(inner) for inner in made[key]]
    for key in _SINGLE:
        if key in made:
            made[key] = tight(made[key])
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def _text(schema: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(schema), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(_FIELD, f"cannot be written as JSON: {error}") from None
