"""A section as options of a command: what the command line may say about each key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from crayon.config.secrets import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.config.fields import Section


@dataclass(frozen=True, slots=True)
class Flag:
    """One key of a section as an option.

    Attributes:
        key: the setting's name within its section.
        names: of the option; a switch has its two forms in one, `--tune/--no-tune`.
        kind: the type of a value; `list[str]` where the option may be given again.
        help: what it means.
        minimum: the smallest number, where there is one.
        maximum: the largest.
        metavar: what stands for the value in the help; None leaves it to the type.
        default: what holds if nothing is said, as the help says it; None where that is no single value.
    """

    key: str
    names: str
    kind: Any
    help: str
    minimum: float | None
    maximum: float | None
    metavar: str | None
    default: str | None


def flags(section: type[Section]) -> Iterator[Flag]:
    """Yield an option for each key; secrets have none, for everybody can read the command line of a process."""
    for key, field in section.model_fields.items():
        if is_secret(field.annotation):
            continue
        kind = _kind(field.annotation)
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        name = str(extra.get("flag", "--" + key.replace("_", "-")))
        metavar = extra.get("metavar")
        bounds = {edge: getattr(data, edge) for data in field.metadata for edge in ("ge", "le") if hasattr(data, edge)}
        yield Flag(
            key,
            f"{name}/--no-{name.removeprefix('--')}" if kind is bool else name,
            kind,
            field.description or "",
            bounds.get("ge"),
            bounds.get("le"),
            None if metavar is None else str(metavar),
            _default(name, kind, field.default),
        )


def _kind(annotation: Any) -> Any:
    """Return the type under what pydantic is told about it, and that is not None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is tuple:
        return list[str]
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return _kind(kinds[0]) if kinds else annotation


def _default(name: str, kind: Any, value: Any) -> str | None:
    if value is None or value == ():
        return None
    if kind is bool:
        return name.removeprefix("--") if value else f"no-{name.removeprefix('--')}"
    return str(value.value if isinstance(value, Enum) else value)
