"""The command line: a file or folder a command, and the only place that prints or turns an error into a message.

Each command is a module with a `typer.Typer` called `app` (in a folder: `command.py`), listed with its one-line help in
`crayon.cli.shared.app`, and imported only when it runs; what is slow to import is imported inside its functions.
"""

from __future__ import annotations


def main() -> None:
    """Run `crayon` with the process's arguments and exit with its code."""
    from crayon.cli.shared.app import run

    raise SystemExit(run())
