"""`crayon route`: what the router does."""

from __future__ import annotations

import typer

from crayon.cli.route_explain import explain

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def route() -> None:
    """See how queries are routed."""


app.command("explain")(explain)
