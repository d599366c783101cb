"""A client's arguments, checked and resolved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from crayon.data.scope_files import load_scope
from crayon.errors import InvalidRequestError
from crayon.messages import Message, normalise_messages
from crayon.router.hardness import Hardness
from crayon.router.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal


def system_message(text: str | None) -> Message | None:
    """Return a system message for requests that bring none; none of an empty text.

    Raises:
        InvalidRequestError: it is no text.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidRequestError("system", f"must be text or None, not {type(text).__name__}")
    return normalise_messages([Message("system", text), Message("user", "?")])[0] if text else None


def check_list(field: str, value: object) -> None:
    """Raise InvalidRequestError if a value cannot be gone through."""
    if not isinstance(value, Iterable):
        raise InvalidRequestError(field, f"must be a list, not {value!r:.40}")


def check_scopes(scopes: Sequence[Scope | str]) -> tuple[Scope, ...]:
    """Return scopes, those that are named loaded.

    Raises:
        InvalidRequestError: one is wrong or unknown, or two have one name.
    """
    check_list("scopes", scopes)
    if isinstance(scopes, str | Scope):
        raise InvalidRequestError("scopes", "must be a list of scopes")
    found = []
    for i, scope in enumerate(scopes):
        if isinstance(scope, str):
            found.append(load_scope(scope))
        elif isinstance(scope, Scope):
            found.append(scope)
        else:
            raise InvalidRequestError(f"scopes[{i}]", f"must be a Scope or a name, not {type(scope).__name__}")
    if len({scope.name for scope in found}) != len(found):
        raise InvalidRequestError("scopes", "two scopes have one name; rename one")
    return tuple(found)


def check_hardness(value: Hardness | Literal[False] | None) -> Hardness | None:
    """Return the gate's settings: its defaults for None, none where it is switched off.

    Raises:
        InvalidRequestError: they are something else.
    """
    if value is None:
        return Hardness()
    if value is False:
        return None
    if not isinstance(value, Hardness):
        raise InvalidRequestError("hardness", f"must be a Hardness, None (defaults) or False (off), not {value!r}")
    return value
