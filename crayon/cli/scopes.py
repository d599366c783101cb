"""Scopes by name or file: a TOML table of name, description, examples and, if wanted, a threshold."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.errors import ConfigError, InvalidRequestError
from crayon.router.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.resources.abc import Traversable

MAX_BYTES = 4 * 2**20
_FIELDS = {"name", "description", "examples", "threshold"}
_PREFIX, _SUFFIX = "scope-", ".toml"


def scope_names() -> tuple[str, ...]:
    """Return the names of the scopes that come with Crayon."""
    names = (entry.name for entry in resources.files("crayon.data").iterdir())
    return tuple(
        sorted(
            name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            for name in names
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
        )
    )


def read_scopes(references: Iterable[str]) -> tuple[Scope, ...]:
    """Return the scopes that the names and files mean.

    Raises:
        ConfigError: a name is unknown, or a file cannot be read or is no scope; names the reference and the field.
    """
    return tuple(_read(reference) for reference in references)


def _read(reference: str) -> Scope:
    key = f"scopes[{reference}]"
    source = _locate(reference, key)
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(key, f"cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(key, f"is larger than {MAX_BYTES // 2**20} MiB, too large for a scope")
    try:
        table: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(key, f"is not valid TOML: {error}") from None
    unknown = sorted(set(table) - _FIELDS)
    if unknown:
        raise ConfigError(f"{key}.{unknown[0]}", f"is unknown; a scope has {', '.join(sorted(_FIELDS))}")
    description = table.get("description", "")
    if not isinstance(description, str):
        raise ConfigError(f"{key}.description", "must be a text")
    try:
        return Scope(
            name=table.get("name", Path(reference).stem),
            examples=table.get("examples", ()),
            description=description,
            threshold=table.get("threshold"),
        )
    except InvalidRequestError as error:
        raise ConfigError(key, str(error)) from None


def _locate(reference: str, key: str) -> Path | Traversable:
    known = scope_names()
    if reference in known:
        return resources.files("crayon.data").joinpath(f"{_PREFIX}{reference}{_SUFFIX}")
    path = Path(reference).expanduser()
    if path.suffix != _SUFFIX and not path.exists():
        names = f"it is none of {', '.join(known)}" if known else "no scope has a name yet"
        raise ConfigError(key, f"{names}, and no TOML file")
    return path
