"""Whether a constraint can be kept: asked before anything is generated, with the same words wherever it is asked."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from crayon.constraints.grammar import grammar_of, limits, schema_of
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llguidance import LLTokenizer

    from crayon.constraint import Constraint

_SAID = 300  # characters of llguidance's own words
_KEYWORDS = (
    (r"^oneOf ", "'oneOf'"),
    (r"^Invalid type", "'type'"),
    (r"^Resource |^Pointer ", "'$ref'"),
    (r"^min/maxProperties", "'minProperties' or 'maxProperties'"),
    (r"regex parse error|[Ii]nvalid regex", "'pattern' or 'patternProperties'"),
)
"""What llguidance says of some keywords without naming them as a schema does."""


def check_constraint(constraint: Constraint) -> None:
    """Check that a constraint can be kept, whatever model is to keep it: it is tried on plain bytes.

    Raises:
        InvalidRequestError: it cannot: it is malformed, asks for what cannot be done, allows nothing, or costs too
            much. The message names the keyword.
    """
    from llguidance import LLMatcher

    try:
        grammar = grammar_of(constraint)
    except InvalidRequestError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise refused(constraint, str(error)) from None
    matcher = LLMatcher(_bytes(), grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()  # some faults show only here
        matcher.consume_tokens(matcher.compute_ff_tokens())  # or here: a text without an end that has to follow
    if matcher.is_error():
        raise refused(constraint, matcher.get_error())


@functools.cache
def _bytes() -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def refused(constraint: Constraint, said: str) -> InvalidRequestError:
    """Return the error of a constraint that llguidance refused with these words."""
    return InvalidRequestError(constraint.field, _problem(constraint, said))


def _problem(constraint: Constraint, said: str) -> str:
    line = " ".join(said.replace("<non-verbose/>", "").split())
    if unknown := re.search(r"Unimplemented keys: \[(.*?)\]", line):
        names = re.findall(r'"((?:[^"\\]|\\.)*)"', unknown[1])
        places = [f"{name!r}{_place(constraint, name)}" for name in names]
        these = "keyword" if len(names) == 1 else "keywords"
        return f"the {these} {' and '.join(places)} cannot be kept; leave out, and check in the answer"
    if unknown := re.search(r"Unknown format: (.*)", line):
        place = _place(constraint, "format", unknown[1])
        return f"the keyword 'format'{place} has no format {unknown[1][:60]!r}; leave it out, or use 'pattern'"
    if line.startswith(("NoExtension", "Unsatisfiable")):
        why = line.partition(": ")[2]
        return f"allows no answer{': ' + why if why else ', since it refers to itself without an end'}"
    if re.search(r"(?i)too (large|big|complex|many)|max is|fuel", line):
        return f"costs too much to keep ({_short(line)}); make it smaller, or require more of its properties"
    for found, keyword in _KEYWORDS:
        if constraint.is_json and re.search(found, line):
            return f"the keyword {keyword} cannot be used: {_short(line)}"
    return f"cannot be used: {_short(line)}"


def _short(line: str) -> str:
    line = re.sub(r"^at \d+\(\d+\): |\s\d+ \| .*$", "", line)
    return line if len(line) <= _SAID else line[:_SAID] + " ..."


def _place(constraint: Constraint, keyword: str, value: str | None = None) -> str:
    """Return where a schema has a keyword, for a message; "" where that is not found."""
    if not constraint.is_json:
        return ""
    for path, found in _walk(schema_of(constraint), ""):
        if keyword in found and (value is None or found[keyword] == value):
            return f" at {path}" if path else ""
    return ""


def _walk(item: object, path: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield every object within a schema with its place, the outer ones first."""
    if isinstance(item, dict):
        yield path, item
        for key, value in item.items():
            yield from _walk(value, f"{path}/{key}")
    elif isinstance(item, list):
        for i, value in enumerate(item):
            yield from _walk(value, f"{path}/{i}")
