"""`crayon ps`: the gateway of this user's that runs."""

from __future__ import annotations

import json
import sys

import typer

from crayon.cli.shared import console, options
from crayon.cli.shared.running_gateway import look

app = typer.Typer(add_completion=False)


@app.command()
def ps(*, as_json: options.JsonOption = False) -> None:
    """Show the gateway that runs: its models, address and requests.

    `crayon ask` and `crayon chat` have it answer where their settings are the same. The exit code is 1 where none runs,
    or it is still loading, or wants a token.
    """
    found = look()
    if found is None:
        if as_json:
            print("null")
        else:
            console.message("no gateway runs; `crayon gateway` starts one")
        raise typer.Exit(1)
    if as_json:
        print(json.dumps(found._asdict()))
        return
    rows = [
        ("gateway", f"process {found.pid}, for {found.uptime_s:,.0f} s"),
        ("address", found.address),
        ("models", ", ".join(found.models) or "unloaded, since nobody asks; the next question loads them"),
        ("running", f"{found.running} requests"),
    ]
    for label, value in rows:
        print(console.safe(f"{label:<9}{value}", sys.stdout))
