"""`crayon choose`: the likeliest of given answers, made for pipes."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer

from crayon.cli.ask import failure, read_question
from crayon.cli.shared import console, options
from crayon.cli.shared.report import choice_line
from crayon.errors import CrayonError
from crayon.messages import Message

app = typer.Typer(add_completion=False)


@app.command()
def choose(
    *,
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="The question.", show_default=False)] = None,
    choice: Annotated[
        list[str] | None, typer.Option("--choice", "-c", metavar="TEXT", help="One of 2 to 100 answers; give each.")
    ] = None,
    mode: options.ModeOption = None,
    private: options.PrivateOption = None,
    system: options.SystemOption = None,
    server: options.ServerOption = None,
    tls: options.TlsOption = None,
    ca_file: options.CaOption = None,
    token_file: options.TokenOption = None,
    device: options.DeviceOption = None,
    scope: options.ScopeOption = None,
    blend: options.BlendOption = None,
    timeout: options.TimeoutOption = None,
    as_json: options.JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the choice and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say where the choice came from, always.")] = False,
) -> None:
    """Choose the likeliest of given answers; works in pipes.

    The question comes from the arguments, from standard input, or both, as for `crayon ask`. The choice goes to
    standard output; where it came from goes to standard error if that is a terminal. With --json there are the
    probabilities of all choices, too.
    """
    from crayon.cli.shared.client import open_client
    from crayon.cli.shared.device_model import suited
    from crayon.sdk.call.choosing import check_choices

    flags = {
        "mode": mode,
        "private": private,
        **options.server_flags(server, tls, ca_file, token_file),
        "device.model": device,
        "scopes": scope,
        "timeout": timeout,
    }
    try:
        settings = options.load_settings(flags)
        messages = [Message("user", read_question(text or [], "choose"))]
        if system:
            messages.insert(0, Message("system", system))
        choices = check_choices(choice or ())  # before a model is fetched for nothing
        with open_client(suited(settings, blend)) as client:
            chosen = client.choose(messages, choices, blend=blend)
    except CrayonError as error:
        if as_json:
            print(json.dumps(failure(error), ensure_ascii=False))
        raise
    if as_json:
        print(json.dumps(dataclasses.asdict(chosen), ensure_ascii=False))
    else:
        console.answer(chosen.text, end="\n")
    if not quiet and (verbose or sys.stderr.isatty()):
        console.message(choice_line(chosen), "dim")
