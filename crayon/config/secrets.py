"""Which settings are secret: shown nowhere, neither as they are nor in an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterator

# What says in a file what the environment says in a secret: a file of settings is shown and passed around.
FILES = {
    "server.token": "server.token_file",
    "serve.tokens": "serve.tokens_file",
    "gateway.tokens": "gateway.tokens_file",
}
HIDDEN = "**********"
_PASSWORD = re.compile(r"^[a-z][a-z0-9+.-]*://[^/@\s]+@", re.IGNORECASE)


def secret_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings whose type is SecretStr."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from secret_keys(kind, f"{prefix}{name}.")
        elif is_secret(kind):
            yield prefix + name


def holds_password(value: object) -> bool:
    """Whether a value is an address with a user or a password in it."""
    return isinstance(value, str) and _PASSWORD.match(value) is not None


def is_secret(kind: Any) -> bool:
    """Whether a type, or a part of it, is SecretStr."""
    return kind is SecretStr or any(is_secret(part) for part in get_args(kind))
