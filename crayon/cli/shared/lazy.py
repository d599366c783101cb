"""Commands that are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Where a command lives, and its line in its group's help; `attribute` is a Typer or one command's function."""

    module: str
    summary: str
    attribute: str = "app"

    def load(self) -> Any:
        """Import the module and return the command."""
        found = getattr(importlib.import_module(self.module), self.attribute)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            found.command()(function)
        return typer.main.get_command(found)


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name; a command's module is imported when it is first asked for.

    Args:
        entries: those that are imported later.
        ready: those that are there.
    """

    def __init__(self, entries: Mapping[str, CommandEntry], ready: Mapping[str, Any] | None = None) -> None:
        self._entries = entries
        self._ready = dict(ready or {})

    def __getitem__(self, name: str) -> Any:
        if name not in self._ready:
            command = self._entries[name].load()
            command.name = name
            plain_help(command)
            self._ready[name] = command
        return self._ready[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._ready[name] = command

    def __delitem__(self, name: str) -> None:
        del self._ready[name]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._ready if name not in self._entries)
        yield from self._entries

    def __len__(self) -> int:
        return len({*self._entries, *self._ready})

    def ready(self) -> list[Any]:
        """Return the commands that are imported."""
        return list(self._ready.values())

    def summary(self, name: str) -> str:
        """Return a command's line in its group's help, without importing it."""
        return self._entries[name].summary if name in self._entries else str(self._ready[name].get_short_help_str(100))


def plain_help(command: Any) -> None:
    """Print help as plain text everywhere: it starts faster and reads the same in pipes and documents."""
    command.rich_markup_mode = None
    children = getattr(command, "commands", {})
    for child in children.ready() if isinstance(children, LazyCommands) else children.values():
        plain_help(child)


class LazyGroup(TyperGroup):
    """A group of which some commands are imported when they are first asked for; a subclass names them."""

    entries: ClassVar[Mapping[str, CommandEntry]] = {}

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = self._lazy = LazyCommands(self.entries, self.commands)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - signature of the library
        """Return the names without loading any command."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - signature of the library
        """Write the list of commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._lazy.summary(name)) for name in self._lazy])
