"""`crayon health`: one question to a server, answered by the exit code."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.shared import console
from crayon.cli.shared.client import quiet_grpc
from crayon.cli.shared.exit_codes import UNEXPECTED
from crayon.cli.shared.streams import OutputError, discard
from crayon.cli.shared.words import in_words_of_the_place
from crayon.errors import ConfigError, CrayonError

if TYPE_CHECKING:
    from crayon.config import ServeSettings

app = typer.Typer(add_completion=False)

# A server that listens everywhere is asked here.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound


@app.command()
def health(
    *,
    address: Annotated[
        str | None,
        typer.Argument(metavar="ADDRESS", help="host:port or unix:/path; if not given, where [serve] listens."),
    ] = None,
    service: Annotated[
        str, typer.Option("--service", metavar="NAME", help="A gRPC service; '' for the whole server.")
    ] = "",
    tls: Annotated[bool, typer.Option("--tls", help="The server speaks TLS.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", metavar="PATH", help="Who vouches for its certificate (PEM).")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Give up after this.")] = 5.0,
) -> None:
    """Ask a server for its health: exit code 0 if it serves, else 1.

    For probes of containers and service managers, which read the exit code. It asks grpc.health.v1 and loads no
    model. Without ADDRESS it asks the server that the settings describe, at serve.health_port if that is set.

    Example: crayon health localhost:50051 --service crayon.v1.InferenceService
    """
    if address is None:
        from crayon.config import load

        address = _own_address(load().settings.serve)
    quiet_grpc()
    from crayon.client.access import ServerAccess
    from crayon.client.health import ask_health

    access = ServerAccess(address, tls=tls, ca_file=ca_file)
    try:
        status = ask_health(access, service, timeout)
    except CrayonError as error:
        # Not the code of the error's kind: probers know two.
        console.error(f"{address}: {in_words_of_the_place(str(error))}")
        raise typer.Exit(UNEXPECTED) from None
    try:
        print(status, flush=True)
    except OutputError:  # probers read the exit code, and some close the rest
        discard(sys.stdout)
    if status == "NOT_SERVING":
        console.message("the server is there: it fetches, measures or loads its model, or it drains or broke down")
    if status != "SERVING":
        raise typer.Exit(UNEXPECTED)


def _own_address(serve: ServeSettings) -> str:
    from crayon.wire.address import join

    host, port, key = serve.host, serve.port, "serve.port"
    if serve.health_port is not None:
        host, port, key = serve.health_host, serve.health_port, "serve.health_port"
    if port == 0 and not host.startswith("unix:"):
        raise ConfigError(key, "is any free port, so the server's address is not known: give ADDRESS")
    return join(_EVERYWHERE.get(host, host), port)
