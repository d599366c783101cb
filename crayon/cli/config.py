"""`crayon config`: the settings that hold, and where each one came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from crayon.cli.shared import console, options
from crayon.local_only import LOCAL_ONLY, local_only

if TYPE_CHECKING:
    from crayon.config import Configuration

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def config() -> None:
    """Show the settings and where each one came from.

    A value comes from the command line, else from a CRAYON_* variable (CRAYON_DEVICE__THREADS=4), else from the
    file (threads = 4 under [device]), else it is the default.
    """


@app.command()
def show(*, as_json: options.JsonOption = False) -> None:
    """Show every setting, its value and its source."""
    from crayon.config import load

    configuration = load()
    for text in configuration.warnings:
        console.warning(text)
    if local_only():
        console.warning(f"{LOCAL_ONLY} is on: no server is asked, whatever is set below")
    if as_json:
        print(json.dumps(_record(configuration), ensure_ascii=False, indent=2))
        return
    rows = [(row.key, _text(row.value), row.source) for row in configuration.rows()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, value, source in rows:
        print(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}")


@app.command()
def path() -> None:
    """Print the file that settings are read from; it need not exist."""
    from crayon.config import config_path

    print(config_path())


def _record(configuration: Configuration) -> dict[str, object]:
    settings = {row.key: {"value": row.value, "source": row.source} for row in configuration.rows()}
    return {"file": str(configuration.path), "local_only": local_only(), "settings": settings}


def _text(value: object) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
