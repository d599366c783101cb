"""Reads what was written by us and may have been edited since: every field by name, type and range, no others."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


def read_json(text: str, where: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Raises:
        ConfigError: it is no JSON, no object, holds NaN or an infinity, or a name twice.
    """

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number")

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in found}) < len(found):
            raise ValueError("a name stands twice in one object")
        return dict(found)

    try:
        data = json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, f"is not JSON as it was written: {error}") from None
    return mapping(data, where)


def mapping(value: object, where: str, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return an object, with exactly these names if they are given.

    Raises:
        ConfigError: it is none, or a name is missing or unknown.
    """
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConfigError(where, f"must be an object, not {value!r:.80}")
    if names is not None:
        wanted = set(names)
        if missing := sorted(wanted - value.keys()):
            raise ConfigError(f"{where}.{missing[0]}", "is missing")
        if unknown := sorted(value.keys() - wanted):
            raise ConfigError(f"{where}.{unknown[0]}", f"is unknown; there are {', '.join(sorted(wanted))}")
    return value


def items(value: object, where: str, most: int) -> list[Any]:
    """Return a list of at most so many.

    Raises:
        ConfigError: it is none, or longer.
    """
    if not isinstance(value, list) or len(value) > most:
        raise ConfigError(where, f"must be a list of at most {most}")
    return value


def number(value: object, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number from `low` to `high`.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(where, f"must be a number, not {value!r:.80}")
    # Compared first: a whole number may be too large for a float.
    if not low <= value <= high or not -1e308 < value < 1e308:
        raise ConfigError(where, f"must be a finite number from {low} to {high}, not {value!r:.80}")
    return float(value)


def count(value: object, where: str) -> int:
    """Return a whole number of 0 or more.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ConfigError(where, f"must be a whole number, 0 or more, not {value!r:.80}")
    return value


def text(value: object, where: str) -> str:
    """Return a text.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str):
        raise ConfigError(where, f"must be a text, not {value!r:.80}")
    return value
