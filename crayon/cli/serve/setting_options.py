"""A command's options, made of the section of the settings that they override."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crayon.config import Flag, Section


def with_options_of(section: type[Section]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces a function's `**given` by an option for each key of `section`.

    The function gets each key, None where nothing was given: what holds then is for the other sources to say.
    """
    from crayon.config import flags

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        parameters = [*(_parameter(flag) for flag in flags(section)), *own]
        # What typer reads.
        function.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined] # inspect documents it
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return function

    return decorate


def settings_of(section: str, given: Mapping[str, object]) -> dict[str, object]:
    """Return the flags of a command as settings, by dotted key."""
    return {f"{section}.{key}": value for key, value in given.items()}


def _parameter(flag: Flag) -> inspect.Parameter:
    option: Any = typer.Option(
        flag.names,
        help=flag.help,
        min=flag.minimum,
        max=flag.maximum,
        metavar=flag.metavar,
        show_default=flag.default or False,
    )
    kind = flag.kind | None
    annotation: Any = Annotated[kind, option]
    return inspect.Parameter(flag.key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
