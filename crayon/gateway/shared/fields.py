"""A JSON object of a request, taken apart field by field; what nobody takes is refused."""

from __future__ import annotations

import math
from typing import Any

from crayon.errors import InvalidRequestError

_KINDS = {str: "a text", bool: "true or false", int: "a whole number", dict: "an object", list: "a list"}


class Fields:
    """The fields of one object. A field that is null counts as not given.

    Args:
        value: what the JSON said.
        path: where the object stands in the request, "" for the whole.

    Raises:
        InvalidRequestError: it is no object.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise InvalidRequestError(path or "body", f"must be a JSON object, not {_kind(value)}")
        self._left = {str(key): item for key, item in value.items() if item is not None}
        self._path = path

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def name(self, key: str) -> str:
        """Return how errors call a field: its whole path."""
        return f"{self._path}.{key}" if self._path else key

    def take(self, key: str, default: Any = None) -> Any:
        """Return a field, whatever it is."""
        return self._left.pop(key, default)

    def text(self, key: str) -> str | None:
        """Return a text, or None."""
        value = self._typed(key, str)
        return None if value is None else str(value)

    def flag(self, key: str) -> bool | None:
        """Return true, false or None."""
        value = self._typed(key, bool)
        return None if value is None else bool(value)

    def whole(self, key: str) -> int | None:
        """Return a whole number, or None; 5.0 is one too, as some languages write it."""
        value = self._left.get(key)
        if isinstance(value, float) and value.is_integer():
            self._left[key] = int(value)
        found = self._typed(key, int)
        return None if found is None else int(found)

    def number(self, key: str) -> float | None:
        """Return a number, or None."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidRequestError(self.name(key), f"must be a number, not {_kind(value)}")
        return value

    def fields(self, key: str) -> Fields | None:
        """Return an object's own fields, or None."""
        value = self.take(key)
        return None if value is None else Fields(value, self.name(key))

    def each(self, key: str) -> list[Fields]:
        """Return the objects of a list, none if it is not given."""
        return self.of_list(key, self.items(key))

    def of_list(self, key: str, items: list[Any]) -> list[Fields]:
        """Return the fields of the objects in a list that was taken from `key`."""
        return [Fields(item, f"{self.name(key)}[{i}]") for i, item in enumerate(items)]

    def items(self, key: str) -> list[Any]:
        """Return a list, an empty one if it is not given."""
        return self._typed(key, list) or []

    def refuse(self, key: str, why: str, unless: tuple[object, ...] = ()) -> None:
        """Refuse a field for what it would mean; values that mean nothing special pass.

        Raises:
            InvalidRequestError: it is there, and none of `unless`.
        """
        value = self.take(key)
        # True == 1, and what passes as a number must not pass as a flag.
        if value is not None and not any(value == other and type(value) is type(other) for other in unless):
            raise InvalidRequestError(self.name(key), why)

    def skip(self, *keys: str) -> None:
        """Let fields pass that change no answer."""
        for key in keys:
            self.take(key)

    def end(self) -> None:
        """Refuse what is left.

        Raises:
            InvalidRequestError: something is; it is named.
        """
        if self._left:
            key = min(self._left)
            raise InvalidRequestError(self.name(key), "is unknown here, and would be ignored; leave it away")

    def _typed(self, key: str, kind: type) -> Any:
        value = self.take(key)
        if value is None or type(value) is kind:
            return value
        raise InvalidRequestError(self.name(key), f"must be {_KINDS[kind]}, not {_kind(value)}")


def _kind(value: object) -> str:
    return "a number" if isinstance(value, float) else _KINDS.get(type(value), "null")
