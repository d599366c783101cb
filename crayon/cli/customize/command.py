"""`crayon customize`: from a file of samples to a device that does that task better."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.customize.check_progress import check_progress
from crayon.cli.customize.weights import customization_json, expectation_lines, weight_lines
from crayon.cli.shared import console, options
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from crayon.config import Settings
    from crayon.customising.customization import Customization
    from crayon.sdk import Crayon

app = typer.Typer(add_completion=False)


@app.command()
def customize(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it: letters, digits, . _ -")],
    samples: Annotated[
        Path, typer.Option("--samples", metavar="FILE", help="1 to 1,000 samples: JSONL, or CSV or TSV with a header.")
    ],
    *,
    refine: Annotated[
        bool, typer.Option("--refine", help="Search for better weights on the samples (takes minutes).")
    ] = False,
    no_check: Annotated[
        bool,
        typer.Option("--no-check", help="Score 8 samples of each task at most: refuses what does worse, says little."),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the customisation of this name.")] = False,
    device: options.DeviceOption = None,
    timeout: options.TimeoutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Make the device better at a task, from a few samples of it.

    No training, no upload. The samples become examples before each question, a classifier of questions where the
    answers are a closed set, and weights of the device's adapter pool where it has one. Each is tried on the samples,
    each answered by the others; what does worse than the plain model is not used. It is kept under NAME after that:
    Ctrl-C leaves what was there. Then `crayon ask --blend NAME` and `crayon chat --customization NAME` use it.

    The file is a CSV with the header question,answer; or JSONL, each line a record with question and, where there are
    any, answer and choices; or prompt and completion; or messages; or text. Give a few samples for each answer, 8 in
    all at least; 16 are a good start.

    Example: crayon customize school --samples mails.csv --replace, where mails.csv has lines such as "I have the flu
    and cannot come tonight.",absence: three for each of absence, invoice, enrolment and cancellation.
    """
    settings = options.load_settings({"device.model": device, "timeout": timeout})
    if not replace:
        _check_free(name, settings)
    with device_client(settings) as client, check_progress() as progress:
        found = client.customize(
            name,
            samples,
            refine=refine,
            check=not no_check,
            replace=replace,
            ready=None if as_json else _show,
            progress=progress,
        )
    if as_json:
        print(json.dumps(customization_json(found), ensure_ascii=False))
        return
    _print(*weight_lines(found), *expectation_lines(found))
    if found.fits:
        console.message(f"use it: crayon ask --blend {name} TEXT, or crayon chat --customization {name}", "dim")


def device_client(settings: Settings) -> Crayon:
    """Return a client that keeps everything on the device and applies no customisation by itself."""
    from crayon.cli.shared.client import open_client

    return open_client(settings.model_copy(update={"private": True, "customization": None, "scopes": ()}))


def _check_free(name: str, settings: Settings) -> None:
    """Say that a name is taken before a model is loaded for nothing."""
    from crayon.customising.store import CustomizationStore

    if name in CustomizationStore(settings.customizations_dir):
        raise InvalidRequestError("NAME", f"{name!r} is taken; add --replace to replace it, or choose another name")


def _show(found: Customization) -> None:
    tasks = len(found.profiles)
    several = f", of {tasks} tasks: each question is answered by the profile it is closest to" if tasks > 1 else ""
    _print(f"{found.name}: {found.samples} samples, {found.answered} with an answer{several}")


def _print(*lines: str) -> None:
    for line in lines:
        print(console.safe(line, sys.stdout), flush=True)
