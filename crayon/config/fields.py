"""Types of single settings: what a value may be, and how a variable or a file says it."""

from __future__ import annotations

from pathlib import Path  # pydantic evaluates the annotations at run time
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _split_list(value: object) -> object:
    """Allow `a,b` where a list is wanted: that is how an environment variable says it."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _join_list(value: object) -> object:
    """Allow a list where `a,b` is wanted: that is how a file says it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


EMPTY_IS_NONE = BeforeValidator(_empty_is_none)
SPLIT_LIST = BeforeValidator(_split_list)
Int = Annotated[int, BeforeValidator(_refuse_bool)]
Float = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
OptionalInt = Annotated[Int | None, EMPTY_IS_NONE]
OptionalBool = Annotated[bool | None, EMPTY_IS_NONE]
JOINED = BeforeValidator(_join_list)
OptionalText = Annotated[str | None, EMPTY_IS_NONE]
Texts = Annotated[tuple[str, ...], NoDecode, SPLIT_LIST]
OptionalPath = Annotated[Path | None, EMPTY_IS_NONE]


class Section(BaseModel):
    """A table of settings; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
