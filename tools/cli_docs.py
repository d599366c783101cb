"""Write docs/reference/cli.md from the program's own help texts, or with --check fail where it differs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.testing import CliRunner
from write_or_check import run

from crayon.cli.shared.app import app
from crayon.cli.shared.exit_codes import EXIT_CODES
from crayon.config import load, variable

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"


def command_paths() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, the program itself first."""
    pending: list[tuple[tuple[str, ...], object]] = [((), typer.main.get_command(app))]
    while pending:
        path, command = pending.pop(0)
        yield path
        children = getattr(command, "commands", {})
        pending[:0] = [((*path, name), children[name]) for name in children]


def help_text(path: tuple[str, ...]) -> str:
    """Return what `crayon PATH --help` prints."""
    result = CliRunner().invoke(app, [*path, "--help"], prog_name="crayon", env={"COLUMNS": "100"})
    if result.exit_code:
        raise SystemExit(f"crayon {' '.join(path)} --help failed:\n{result.output}")
    return result.stdout.rstrip()


def document() -> str:
    """Return the whole page."""
    parts = [
        "# The command line",
        "<!-- Written by tools/cli_docs.py; change the help texts in crayon/cli instead. -->",
        (
            "Answers go to standard output, everything else to standard error. `NO_COLOR` turns colour off; there is\n"
            "none where the output is no terminal. `--debug` (or `CRAYON_DEBUG=1`) before the command shows the trace\n"
            "of an error."
        ),
        "## Exit codes",
        "| code | meaning |\n| ---: | --- |\n" + "\n".join(f"| {row.code} | {row.meaning} |" for row in EXIT_CODES),
        "## Settings",
        (
            "A value comes from the command line, else from the environment, else from the TOML file that\n"
            "`crayon config path` names (another one with `CRAYON_CONFIG`), else it is the default.\n"
            "`crayon config show` prints each value with its source."
        ),
        "| setting | environment | default |\n| --- | --- | --- |\n" + "\n".join(settings_rows()),
    ]
    for path in command_paths():
        parts += [f"## `{' '.join(('crayon', *path))}`", f"```text\n{help_text(path)}\n```"]
    return "\n\n".join(parts) + "\n"


def settings_rows() -> Iterator[str]:
    """Yield a table row a setting."""
    for row in load().rows():
        default = "" if row.value in (None, []) else f"`{row.value}`"
        yield f"| `{row.key}` | `{variable(row.key)}` | {default} |"


def made(_: Path) -> str:
    """Return the page as a user without any settings sees the program."""
    for name in [name for name in os.environ if name.upper().startswith("CRAYON_")]:
        del os.environ[name]
    os.environ["CRAYON_CONFIG"] = os.devnull
    return document()


if __name__ == "__main__":
    sys.exit(run(__doc__, TARGET, made))
