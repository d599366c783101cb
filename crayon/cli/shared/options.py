"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.shared import console
from crayon.cli.shared.traces import turn_on_traces
from crayon.completion import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.config import Configuration, Settings

_MODES = ", ".join(Mode)
ModeOption = Annotated[
    Mode | None, typer.Option("--mode", metavar="MODE", help=f"Which side may answer, or is preferred: {_MODES}.")
]
PrivateOption = Annotated[
    bool | None,
    typer.Option("--private/--no-private", help="Keep everything on this device, whatever the mode."),
]
PrivacyOption = Annotated[
    str | None,
    typer.Option(
        "--privacy",
        metavar="keep|redact|ask|off",
        help="What to do where something sensitive is found in a question: e-mail addresses, phone numbers, cards, "
        "bank accounts, national ids and keys, but no names, streets or birth dates (see docs/how-to/privacy.md).",
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="HOST:PORT[,...]", help="The server to turn to, or several; '' for none."),
]
TlsOption = Annotated[bool | None, typer.Option("--tls/--no-tls", help="Speak TLS with the server, wherever it is.")]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca-file", metavar="PATH", help="Authorities that vouch for the server, as PEM; with TLS."),
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="PATH", help="The token for the server is in there (chmod 600)."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="MODEL", help="The device's model: name, path, reference, or auto.")
]
ContextOption = Annotated[
    int | None, typer.Option("--context", metavar="N", min=1, help="Tokens of the device's context (device.context).")
]
ScopeOption = Annotated[
    list[str] | None,
    typer.Option("--scope", metavar="NAME|FILE", help="What the device is made for; may be given again."),
]
BlendOption = Annotated[
    str | None,
    typer.Option("--blend", metavar="NAME|FILE", help="Apply this customisation; 'base' for the plain base."),
]
FreeOption = Annotated[
    bool,
    typer.Option("--free", help="Ask for a text even where the customisation's answers are a closed set."),
]
CustomizationOption = Annotated[
    str | None,
    typer.Option(
        "--customization", metavar="NAME|FILE", help="What the device was customised for; '' for no customisation."
    ),
]
SystemOption = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="Instructions for the model.")]
TimeoutOption = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up after this.")]
MaxTokensOption = Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Longest answer.")]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", metavar="T", help="0 takes the likeliest token each time.")
]
TopPOption = Annotated[
    float | None,
    typer.Option("--top-p", metavar="P", help="Draw from the smallest set of tokens this likely."),
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", metavar="K", help="Draw from this many likeliest tokens; 0 for all.")
]
MinPOption = Annotated[
    float | None,
    typer.Option("--min-p", metavar="P", help="Drop tokens less likely than P times the likeliest."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Fix the draw.")]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the answer here; may be given again.")
]
SchemaOption = Annotated[
    Path | None,
    typer.Option("--json-schema", metavar="FILE", help="Answer with JSON that fits the JSON schema in this file."),
]
RegexOption = Annotated[
    str | None, typer.Option("--regex", metavar="REGEX", help="Answer with a text that this expression matches whole.")
]
ChoiceOption = Annotated[
    list[str] | None, typer.Option("--choice", metavar="TEXT", help="Answer with one of these; give it once for each.")
]
ShowFormatOption = Annotated[
    bool,
    typer.Option("--show-format/--no-show-format", help="Whether the model is told of the schema or choices."),
]
TopLogprobsOption = Annotated[
    int | None,
    typer.Option(
        "--top-logprobs",
        metavar="K",
        help="With --json: how likely each token was, and the K likeliest in its place, 0 to 20.",
    ),
]
LogitBiasOption = Annotated[
    list[str] | None,
    typer.Option(
        "--logit-bias",
        metavar="TOKEN=BIAS",
        help="Add to the logit of the token with this number, -100 to 100; may be given again. With a --mode that "
        "leaves one side, whose tokens they are.",
    ),
]
NoGatewayOption = Annotated[
    bool, typer.Option("--no-gateway", help="Load the models here, even where a gateway with these settings runs.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def server_flags(
    server: str | None, tls: bool | None, ca_file: Path | None, token_file: Path | None
) -> dict[str, object]:
    """Return the settings that the options for the server stand for."""
    return {"server.address": server, "server.tls": tls, "server.ca_file": ca_file, "server.token_file": token_file}


def load_settings(flags: Mapping[str, object]) -> Settings:
    """Return the settings; see `load_configuration`."""
    return load_configuration(flags).settings


def load_configuration(flags: Mapping[str, object]) -> Configuration:
    """Return the configuration; options that were not given (None or empty) leave the other sources their say.

    Warns on standard error about variables that look like settings, and sends the log there too; traces go where OTEL_*
    variables say.
    """
    from crayon.config import load

    given = {key: value for key, value in flags.items() if value is not None and value != []}
    configuration = load(given)
    for text in configuration.warnings:
        console.warning(text)
    level = logging.getLevelNamesMapping()[configuration.settings.log_level.upper()]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    turn_on_traces()
    return configuration
