"""Scopes that come with Crayon, and scopes in files of your own."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from crayon.router.scope import Scope

MAX_FILE_BYTES = 1 << 20


def scope_names() -> tuple[str, ...]:
    """Return the names of the scopes that come with Crayon."""
    files = resources.files("crayon.data").joinpath("scopes").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load_scope(name: str) -> Scope:
    """Return a scope by its name, or from a TOML file with `name`, `examples`, and maybe `description`, `threshold`.

    Args:
        name: one of `scope_names()`, or a path that ends with .toml.

    Raises:
        InvalidRequestError: no such scope or file, or the file does not hold a scope.
    """
    from crayon.router.scope import Scope

    field = f"scope[{name}]"
    table = read_scope(name)
    values = {key: table[key] for key in ("name", "examples", "description", "threshold") if key in table}
    missing = [key for key in ("name", "examples") if key not in values]
    if missing:
        raise InvalidRequestError(field, f"lacks {' and '.join(missing)}")
    if not isinstance(values.get("description", ""), str):
        raise InvalidRequestError(f"{field}.description", "must be text")
    return Scope(**values)


def read_scope(name: str) -> dict[str, Any]:
    """Return the whole table of a scope file: the shipped ones also hold `own` and `foreign` queries for tests.

    Raises:
        InvalidRequestError: no such scope or file, or it is not TOML.
    """
    field = f"scope[{name}]"
    if not isinstance(name, str):
        raise InvalidRequestError("scope", f"must be a name or a path, not {type(name).__name__}")
    if name in scope_names():
        data = resources.files("crayon.data").joinpath("scopes", f"{name}.toml").read_bytes()
    elif name.endswith(".toml"):
        try:
            with Path(name).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InvalidRequestError(field, f"cannot be read: {error.strerror}") from None
        except ValueError:
            raise InvalidRequestError(field, "holds a character that no path does") from None
        if len(data) > MAX_FILE_BYTES:
            raise InvalidRequestError(field, f"is larger than {MAX_FILE_BYTES} bytes")
    else:
        raise InvalidRequestError(field, f"is unknown; there are {', '.join(scope_names())}, or pass a .toml file")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequestError(field, f"is not TOML: {error}") from None
