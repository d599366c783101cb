"""The `crayon` program: commands, loaded only when they run, and the one place that handles their errors."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli.shared import console
from crayon.cli.shared.exit_codes import BROKEN_PIPE, INTERRUPTED, UNEXPECTED, exit_code, exit_code_table
from crayon.cli.shared.lazy import CommandEntry, LazyGroup
from crayon.cli.shared.streams import OutputError, discard, whole_streams
from crayon.cli.shared.words import in_words_of_the_place
from crayon.errors import CrayonError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: dict[str, CommandEntry] = {
    "ask": CommandEntry("crayon.cli.ask", "Ask one question; works in pipes."),
    "choose": CommandEntry("crayon.cli.choose", "Choose the likeliest of given answers; works in pipes."),
    "chat": CommandEntry("crayon.cli.chat.command", "Talk, turn by turn."),
    "serve": CommandEntry("crayon.cli.serve.command", "Run a server that devices can turn to."),
    "gateway": CommandEntry("crayon.cli.gateway.command", "Answer HTTP clients made for OpenAI, Anthropic or Ollama."),
    "ps": CommandEntry("crayon.cli.gateway.ps", "Show the gateway that runs: its models, address and requests."),
    "stop": CommandEntry("crayon.cli.gateway.stop", "Stop the gateway that runs."),
    "health": CommandEntry("crayon.cli.health", "Ask a server for its health: exit code 0 if it serves, else 1."),
    "top": CommandEntry("crayon.cli.top.command", "Watch a server: its queue, batch, cache, speed and refusals."),
    "demo": CommandEntry("crayon.cli.demo.command", "Watch questions being answered on the device and by a server."),
    "customize": CommandEntry(
        "crayon.cli.customize.command", "Make the device better at a task, from a few samples of it."
    ),
    "customizations": CommandEntry(
        "crayon.cli.customize.customizations", "List, show, rename, delete and export customisations."
    ),
    "calibrate": CommandEntry("crayon.cli.route.calibrate", "Measure who answers what better, and route by it."),
    "models": CommandEntry("crayon.cli.models.command", "List, fetch, inspect, prepare and remove models."),
    "pool": CommandEntry("crayon.cli.pool.command", "List, show, check, train, import and export adapter pools."),
    "route": CommandEntry("crayon.cli.route.command", "Show what decides where questions go."),
    "doctor": CommandEntry("crayon.cli.doctor.command", "Check this machine, the library, the models and the server."),
    "config": CommandEntry("crayon.cli.config", "Show the settings and where each one came from."),
    "eval": CommandEntry("crayon.cli.eval.command", "Measure how good the device's answers are."),
    "bench": CommandEntry("crayon.cli.bench", "Measure device, blending, server, wire and start-up."),
    "tune": CommandEntry("crayon.cli.tune.command", "Search for the best plan of a server's work."),
}


class CommandGroup(LazyGroup):
    """The top-level group: commands come from `COMMANDS`, their errors become messages and exit codes."""

    entries = COMMANDS

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
            discard(sys.stdout)
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            console.message("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001 - the program's last line of defence
            if isinstance(error, OutputError):
                discard(sys.stdout)
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
        console.error(in_words_of_the_place(str(error)))
    elif isinstance(error, MemoryError):
        console.error("too little memory: close other programs, raise the limit, or take a smaller model or --context")
    else:
        hint = "" if debug else "; `crayon --debug ...` shows where, please report it"
        console.error(f"unexpected {type(error).__name__}: {error}{hint}")


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
    # gRPC reads it when it is first imported, which reading the settings does; its log lines would stand among ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    command = typer.main.get_command(app)
    with whole_streams():
        code = 0
        try:
            command.main(args=arguments, prog_name="crayon")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else UNEXPECTED
        except OutputError as error:  # of what is no command: --help, --version
            discard(sys.stdout)
            _report(error, debug=False)
            code = exit_code(error)
        finally:
            unwritten = _flush()
            console.forget_unwritten()
    return unwritten or code


def _flush() -> int:
    """Write what is kept, as of --help, which ends before commands do; return the exit code of a failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        return BROKEN_PIPE
    except OutputError as error:
        discard(sys.stdout)
        console.error(str(error))
        return exit_code(error)
    return 0
