"""`crayon top`: what a server is doing, live in the terminal."""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.shared import console, options
from crayon.errors import ConfigError, MissingExtraError, ServerUnavailableError

if TYPE_CHECKING:
    from crayon.cli.top.view import Frame
    from crayon.server.observability.reading import Page

app = typer.Typer(add_completion=False)

DEFAULT_ADDRESS = "127.0.0.1:9464"
_GAP_S = 1.0  # between the two looks of one frame


@app.command()
def top(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="host:port of the server's metrics (crayon serve --metrics-port).")
    ] = DEFAULT_ADDRESS,
    *,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.2, help="How often to look.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame, after two looks a second apart.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Watch a server: its queue, batch, cache, speed and refusals.

    It reads the server's metrics, which `crayon serve --metrics-port 9464` shows. Rates and quantiles are of the time
    between two looks. A server that goes away is waited for; Ctrl-C ends it.
    """
    if find_spec("prometheus_client") is None:
        raise MissingExtraError("server", "crayon top")
    from crayon.cli.top.view import Frame
    from crayon.server.observability.reading import fetch
    from crayon.wire.address import UNIX, check_form

    if check_form(address, "ADDRESS").startswith(UNIX):
        raise ConfigError("ADDRESS", "must be host:port: metrics are on a port of their own (--metrics-port)")
    first = fetch(address)
    if once or as_json:
        time.sleep(_GAP_S)
        frame = Frame.of(address, first, fetch(address))
        if as_json:
            print(json.dumps(frame.as_json()))
        else:
            _print(frame)
        return
    _watch(address, first, every)


def _print(frame: Frame) -> None:
    from rich.console import Console

    Console(no_color=not console.colour_wanted(sys.stdout), highlight=False).print(frame.table())


def _watch(address: str, first: Page, every: float) -> None:
    from rich.live import Live

    from crayon.cli.top.view import Frame, away
    from crayon.server.observability.reading import fetch

    before: Page | None = first
    with Live(Frame.of(address, None, first).table(), auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(every)
            try:
                page = fetch(address)
            except ServerUnavailableError as error:
                before = None  # what comes back counts from 0
                live.update(away(address, str(error)), refresh=True)
                continue
            live.update(Frame.of(address, before, page).table(), refresh=True)
            before = page
