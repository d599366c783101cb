"""The keywords that open an engine, looked at before they are passed on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEVICE_OPTIONS = ("models_dir", "download", "prepared", "progress", "n_ctx", "threads", "pools")
SERVER_OPTIONS = (
    *("timeout", "connect_timeout", "breaker"),
    *("tls", "ca_file", "client_cert", "client_key", "token", "token_file"),
)

_COUNTS = ("n_ctx", "threads")
_SECONDS = ("timeout", "connect_timeout")
_FLAGS = ("download", "prepared", "tls")
_PATHS = ("models_dir", "ca_file", "client_cert", "client_key", "token_file")


def check_options(field: str, options: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """Return keywords for opening an engine, with paths as `Path`.

    Args:
        field: what the caller calls them.
        options: the keywords.
        known: those that there are.

    Raises:
        InvalidRequestError: one is unknown or of the wrong kind; says which, and what there is.
    """
    found = {}
    for name, value in options.items():
        if name not in known:
            raise InvalidRequestError(field, f"{name!r} is no such option; there are: {', '.join(sorted(known))}")
        found[name] = _checked(f"{field}[{name!r}]", name, value)
    return found


def _checked(field: str, name: str, value: Any) -> Any:
    if name in _COUNTS and value is not None and (type(value) is not int or value < 1):
        raise InvalidRequestError(field, f"must be a whole number from 1, not {value!r}")
    if name in _SECONDS and type(value) not in (int, float):
        raise InvalidRequestError(field, f"must be a number of seconds, not {value!r}")
    if name in _FLAGS and not isinstance(value, bool):
        raise InvalidRequestError(field, f"must be True or False, not {value!r}")
    if name in _PATHS and value is not None:
        if not isinstance(value, str | os.PathLike):
            raise InvalidRequestError(field, f"must be a path, not {type(value).__name__}")
        if "\0" in os.fspath(value):
            raise InvalidRequestError(field, "holds a null character, as no path does")
        return Path(value).expanduser()
    if name == "pools" and value not in (None, "auto") and not isinstance(value, list | tuple):
        raise InvalidRequestError(field, f"must be 'auto', None or a list of pools, not {value!r}")
    return value
