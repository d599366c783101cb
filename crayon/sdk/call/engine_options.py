"""The keywords that open an engine, looked at before they are passed on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crayon.errors import InvalidRequestError

DEVICE_OPTIONS = ("models_dir", "download", "prepared", "progress", "n_ctx", "threads", "pools")
SERVER_OPTIONS = (
    *("timeout", "connect_timeout", "breaker"),
    *("tls", "ca_file", "client_cert", "client_key", "token", "token_file"),
)

_COUNTS = ("n_ctx", "threads")
_SECONDS = ("timeout", "connect_timeout")
_FLAGS = ("download", "prepared", "tls")
_PATHS = ("models_dir", "ca_file", "client_cert", "client_key", "token_file")


def check_options(field: str, options: object, known: tuple[str, ...]) -> dict[str, Any]:
    """Return keywords for opening an engine, with paths as `Path`.

    Args:
        field: what the caller calls them.
        options: the keywords; None: none.
        known: those that there are.

    Raises:
        InvalidRequestError: they are no mapping, or one is unknown or of the wrong kind; says which, and what there is.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidRequestError(field, f"must be a mapping of options, not {type(options).__name__}")
    found = {}
    for name, value in options.items():
        if name not in known:
            raise InvalidRequestError(field, f"{name!r} is no such option; there are: {', '.join(sorted(known))}")
        found[name] = _checked(f"{field}[{name!r}]", name, value)
    return found


def check_path(field: str, value: object) -> Path:
    """Return a path, with ~ as the home folder that it stands for.

    Raises:
        InvalidRequestError: it is none, or one that no file could have.
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str):
        raise InvalidRequestError(field, f"must be a path, not {type(value).__name__}")
    try:
        known = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        known = False
    if not known:
        raise InvalidRequestError(field, "holds a character that no path does")
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a user that there is not: a folder of that name, then
        return Path(path)


def _checked(field: str, name: str, value: Any) -> Any:
    if name in _COUNTS and value is not None and (type(value) is not int or value < 1):
        raise InvalidRequestError(field, f"must be a whole number from 1, not {value!r}")
    if name in _SECONDS and type(value) not in (int, float):
        raise InvalidRequestError(field, f"must be a number of seconds, not {value!r}")
    if name in _FLAGS and not isinstance(value, bool):
        raise InvalidRequestError(field, f"must be True or False, not {value!r}")
    if name in _PATHS and value is not None:
        return check_path(field, value)
    if name == "pools" and value not in (None, "auto") and not isinstance(value, list | tuple):
        raise InvalidRequestError(field, f"must be 'auto', None or a list of pools, not {value!r}")
    return value
