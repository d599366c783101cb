"""The `crayon` program: commands, loaded only when they run, and the one place that handles their errors."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from crayon.cli import console
from crayon.cli.exit_codes import BROKEN_PIPE, INTERRUPTED, UNEXPECTED, exit_code, exit_code_table
from crayon.errors import CrayonError, OverloadedError


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Where a command lives and its line in `crayon --help`."""

    module: str
    summary: str


COMMANDS: dict[str, CommandEntry] = {
    "ask": CommandEntry("crayon.cli.ask", "Ask one question; works in pipes."),
    "chat": CommandEntry("crayon.cli.chat", "Talk, turn by turn."),
    "serve": CommandEntry("crayon.cli.serve", "Run a server that devices can turn to."),
    "demo": CommandEntry("crayon.cli.demo", "Watch questions being answered on the device and by a server."),
    "models": CommandEntry("crayon.cli.models", "List, fetch, inspect, prepare and remove models."),
    "doctor": CommandEntry("crayon.cli.doctor", "Check this machine, the library, the models and the server."),
    "config": CommandEntry("crayon.cli.config", "Show the settings and where each one came from."),
    "bench": CommandEntry("crayon.cli.bench", "Measure the device and the start-up."),
}


class _LazyCommands(MutableMapping[str, Any]):
    """Commands by name; a command's module is imported when it is first asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            app = importlib.import_module(COMMANDS[name].module).app
            command = typer.main.get_command(app)
            command.name = name
            _plain_help(command)
            self._loaded[name] = command
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _plain_help(command: Any) -> None:
    """Print help as plain text everywhere: it starts faster and reads the same in pipes and documents."""
    command.rich_markup_mode = None
    for child in getattr(command, "commands", {}).values():
        _plain_help(child)


class CommandGroup(TyperGroup):
    """The top-level group: commands come from `COMMANDS`, their errors become messages and exit codes."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = _LazyCommands()

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - signature of the library
        """Return the names without loading any command."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - signature of the library
        """Write the list of commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the only place where an error ends in a message."""
        console.tolerate_any_text()
        debug = bool(ctx.params.get("debug"))
        try:
            result = super().invoke(ctx)
            # A reader that went away shows at the latest here, not in the interpreter's last breath.
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except BrokenPipeError:
            _discard_output()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            console.message("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001 - the program's last line of defence
            _report(error, debug=debug)
            raise typer.Exit(exit_code(error)) from None


def _report(error: Exception, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    else:
        for note in getattr(error, "__notes__", ()):
            console.message(str(note))
    if isinstance(error, OverloadedError):
        console.error(f"{error} (try again in {error.retry_after:g} s)")
    elif isinstance(error, CrayonError):
        console.error(str(error))
    else:
        hint = "" if debug else "; `crayon --debug ...` shows where, please report it"
        console.error(f"unexpected {type(error).__name__}: {error}{hint}")


def _discard_output() -> None:
    """Point standard output at nothing, so that the interpreter's own flush at exit stays quiet."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # not a real file, nothing will complain
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"crayon {version('crayon-llm')}")
        raise typer.Exit


app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # \b keeps the help formatter from filling the lines.
    epilog=f"\b\nExit codes:\n{exit_code_table()}",
)


@app.callback()
def _crayon(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.", envvar="CRAYON_DEBUG")] = False,
) -> None:
    """Ask a small customised model on this device, and a larger one over gRPC when it is needed."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; `arguments` are the process's own by default."""
    command = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="crayon")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else UNEXPECTED
    return 0
