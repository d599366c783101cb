"""`crayon stop`: end the gateway of this user's that runs."""

from __future__ import annotations

import os
import signal
import time

import typer

from crayon.cli.shared import console
from crayon.cli.shared.running_gateway import look
from crayon.errors import EngineError

PATIENCE_S = 60.0

app = typer.Typer(add_completion=False)


@app.command()
def stop() -> None:
    """Stop the gateway that runs.

    Answers that are being written may end first. The exit code is 1 where none runs.
    """
    found = look()
    if found is None:
        console.message("no gateway runs")
        raise typer.Exit(1)
    try:
        os.kill(found.pid, signal.SIGTERM)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            os.kill(found.pid, 0)
            time.sleep(0.05)
    except ProcessLookupError:
        console.message(f"process {found.pid} has stopped")
        return
    raise EngineError(f"process {found.pid} still answers its last requests after {PATIENCE_S:g} s")
