"""What an answer must look like: a JSON schema, any JSON, a regular expression, one of given texts, or a grammar."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from crayon.errors import InvalidRequestError
from crayon.messages import check_unicode

MAX_CONSTRAINT_BYTES = 2**18
"""Of a schema, a regular expression, a grammar, or all choices together, as UTF-8."""
MAX_CONSTRAINT_CHOICES = 1000
MAX_SCHEMA_DEPTH = 64
"""Objects and lists within each other."""


class ConstraintKind(StrEnum):
    """What a constraint is written in."""

    SCHEMA = "schema"
    JSON = "json"
    REGEX = "regex"
    CHOICES = "choices"
    GRAMMAR = "grammar"


FIELDS: dict[ConstraintKind, str] = {
    ConstraintKind.SCHEMA: "response_format",
    ConstraintKind.JSON: "response_format",
    ConstraintKind.REGEX: "regex",
    ConstraintKind.CHOICES: "choices",
    ConstraintKind.GRAMMAR: "grammar",
}
"""What errors call a constraint of each kind, on both sides: the keyword that callers write."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """Every answer to a request with a constraint fits it, as far as it goes; one that ended by itself fits it whole.

    Args:
        kind: what it is written in.
        text: the JSON schema as JSON, the regular expression, or the grammar in Lark's syntax.
        choices: the texts to choose from, of the kind `CHOICES`.
        show: whether the model is told in its prompt what is wanted of it (not of the kinds `REGEX` and `GRAMMAR`,
            which it would not understand): a small model otherwise writes nonsense that fits.

    Raises:
        InvalidRequestError: something is missing, too much, too large, or no JSON schema.
    """

    kind: ConstraintKind
    text: str = ""
    choices: tuple[str, ...] = ()
    show: bool = True

    def __post_init__(self) -> None:
        given: object = self.text
        if not isinstance(given, str):
            raise InvalidRequestError(self.field, f"must be text, not {type(given).__name__}")
        check_unicode(self.field, self.text)
        if self.kind is ConstraintKind.CHOICES:
            self._check_choices()
        elif self.kind is not ConstraintKind.JSON and not self.text.strip():
            raise InvalidRequestError(self.field, "is empty; leave it out for an answer in any form")
        size = sum(len(text.encode()) for text in (self.text, *self.choices))
        if size > MAX_CONSTRAINT_BYTES:
            raise InvalidRequestError(self.field, f"has {size} bytes; at most {MAX_CONSTRAINT_BYTES} are taken")
        if self.kind is ConstraintKind.SCHEMA:
            read_schema(self.text)

    @property
    def field(self) -> str:
        """What errors call it."""
        return FIELDS[self.kind]

    @property
    def is_json(self) -> bool:
        """Whether answers are JSON documents."""
        return self.kind in {ConstraintKind.SCHEMA, ConstraintKind.JSON}

    @property
    def texts(self) -> tuple[str, ...]:
        """All that it says, for whoever has to look at what leaves the device."""
        return (self.text, *self.choices) if self.text else self.choices

    def _check_choices(self) -> None:
        given: object = self.choices
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InvalidRequestError(self.field, f"must be a list of texts, not {type(given).__name__}")
        choices = tuple(given)
        if not 1 <= len(choices) <= MAX_CONSTRAINT_CHOICES:
            raise InvalidRequestError(self.field, f"must hold 1 to {MAX_CONSTRAINT_CHOICES} texts, not {len(choices)}")
        for i, choice in enumerate(choices):
            if not isinstance(choice, str) or not choice:
                raise InvalidRequestError(f"{self.field}[{i}]", "must be a non-empty text")
            check_unicode(f"{self.field}[{i}]", choice)
        object.__setattr__(self, "choices", choices)


def read_schema(text: str) -> dict[str, object] | bool:
    """Return a JSON schema, which is an object, or `true` and `false`.

    Raises:
        InvalidRequestError: it is no JSON, nested too deep, or neither of these.
    """
    field = FIELDS[ConstraintKind.SCHEMA]
    try:
        schema = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise InvalidRequestError(field, f"is no JSON: {error}") from None
    if not isinstance(schema, dict | bool):
        raise InvalidRequestError(field, f"must be a JSON schema, so an object, not {type(schema).__name__}")
    if deeper_than(schema, MAX_SCHEMA_DEPTH):
        raise _too_deep()
    return schema


def deeper_than(value: object, levels: int) -> bool:
    """Return whether JSON's objects and lists are nested in more levels than these; walks no further down."""
    level = [value]
    for _ in range(levels):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return False
    return True


def _inside(item: object) -> Iterable[object]:
    if isinstance(item, dict):
        return [value for value in item.values() if isinstance(value, dict | list)]
    return [value for value in item if isinstance(value, dict | list)] if isinstance(item, list) else []


def _too_deep() -> InvalidRequestError:
    problem = f"is nested more than {MAX_SCHEMA_DEPTH} deep; move inner parts to $defs and refer to them by $ref"
    return InvalidRequestError(FIELDS[ConstraintKind.SCHEMA], problem)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
