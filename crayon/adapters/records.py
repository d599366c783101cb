"""Frozen dataclasses from JSON that somebody else wrote: nothing missing, nothing extra, every type as declared."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from crayon.errors import AdapterError

T = TypeVar("T")


def read_record(kind: type[T], data: bytes, where: str) -> T:
    """Return the record that the JSON text `data` holds; `where` names it in messages.

    Raises:
        AdapterError: not UTF-8, not JSON, or not of the declared shape; names the field.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise AdapterError(f"{where}: is not JSON ({why})") from None
    return record(kind, value, where)


def record(kind: type[T], value: object, where: str) -> T:
    """Return the dataclass `kind` filled from a JSON object.

    Raises:
        AdapterError: a field is missing, unknown or of another type; names the field.
    """
    if not isinstance(value, dict):
        raise AdapterError(f"{where}: must be a JSON object")
    declared: Any = kind  # mypy takes a type variable for no hashable
    hints, required = _fields(declared)
    if unknown := sorted(set(value) - set(hints)):
        raise AdapterError(f"{where}: has the unknown field {unknown[0]!r}")
    if missing := sorted(required - set(value)):
        raise AdapterError(f"{where}: lacks the field {missing[0]!r}")
    return kind(**{name: _value(hints[name], item, f"{where}: {name}") for name, item in value.items()})


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:  # typeshed's protocol for dataclasses is private
    """Return the type of each field, and which fields have no default."""
    required = (f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    return get_type_hints(kind), frozenset(required)


def _value(kind: Any, value: object, where: str) -> Any:  # the type is known at run time only
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        if value is None:
            return None
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
        return _value(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise AdapterError(f"{where} must be a list")
        return tuple(_value(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal:
        if value not in get_args(kind):
            raise AdapterError(f"{where} must be one of {', '.join(map(str, get_args(kind)))}")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise AdapterError(f"{where} must be a JSON object")
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        return record(kind, value, where)
    return _number(value, where) if kind is float else _plain(kind, value, where)


def _plain(kind: type, value: object, where: str) -> object:
    if type(value) is not kind:
        raise AdapterError(f"{where} must be {'a whole number' if kind is int else 'text'}")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise AdapterError(f"{where} must be a finite number")


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")
