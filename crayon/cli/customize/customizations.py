"""`crayon customizations`: those on this device."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.customize.weights import customization_json, expectation_lines, weight_lines
from crayon.cli.shared import console, options
from crayon.errors import AdapterError

if TYPE_CHECKING:
    from crayon.customising.customization import Customization
    from crayon.customising.store import CustomizationStore

app = typer.Typer(add_completion=False, no_args_is_help=True)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of `crayon customizations ls`.")]


@app.callback()
def customizations() -> None:
    """List, show, rename, delete and export customisations.

    They lie with their samples in a folder that only you can read; `crayon customize` makes them.
    """


@app.command("ls")
def list_customizations(*, as_json: options.JsonOption = False) -> None:
    """List the customisations on this device.

    Example: crayon customizations ls --json
    """
    store = _store()
    found: dict[str, Customization | str] = {}
    for name in store.names():
        try:
            found[name] = store.load(name)
        except AdapterError as error:
            found[name] = str(error)
    if as_json:
        rows = [
            {"name": name, "error": item} if isinstance(item, str) else customization_json(item)
            for name, item in found.items()
        ]
        print(json.dumps({"folder": str(store.folder), "customizations": rows}, ensure_ascii=False, indent=2))
        return
    if not found:
        console.message("no customisations; make one: crayon customize NAME --samples FILE")
        return
    table: list[tuple[str, ...]] = [("NAME", "BASE", "PROFILES", "SAMPLES", "GAIN", "CREATED")]
    table += [_row(name, item) for name, item in found.items()]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@app.command()
def show(name: _Name, *, as_json: options.JsonOption = False) -> None:
    """Show a customisation: its profiles, their weights, and what it is expected to be worth.

    Example: crayon customizations show travel
    """
    found = _store().load(name)
    if as_json:
        print(json.dumps(customization_json(found), ensure_ascii=False, indent=2))
        return
    lines = [
        f"{found.name}: made {found.created} from {found.samples} samples, {found.answered} with an answer",
        f"for {found.base}{f', pool {found.pool_id}' if found.pool_id else ''}",
        *weight_lines(found),
        *expectation_lines(found),
    ]
    for line in lines:
        print(console.safe(line, sys.stdout))


@app.command()
def rename(
    name: _Name, new: Annotated[str, typer.Argument(metavar="NEW", help="The new name, which must be free.")]
) -> None:
    """Give a customisation another name.

    Example: crayon customizations rename travel trips
    """
    _store().rename(name, new)
    console.message(f"{name} is now {new}")


@app.command()
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names of `crayon customizations ls`.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete customisations, with the samples they were made from.

    Example: crayon customizations delete travel --yes
    """
    store = _store()
    for name in names:
        store.stamp(name)  # all are there, before any goes
    for name in names:
        if not yes:
            typer.confirm(f"Delete {name} with its samples?", abort=True, err=True)
        store.delete(name)
        console.message(f"deleted {name}")


@app.command()
def export(
    name: _Name, file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not exist.")]
) -> None:
    """Write a customisation to a file, without its samples and their embeddings.

    Whoever has the same model and pool can use it: crayon ask --blend FILE. What it does hold of the samples is each
    profile's mean embedding, and of fewer than 4 samples not even that. Example: crayon customizations export travel
    travel.json
    """
    found = _store().export(name, file)
    console.message(f"wrote {file}, without samples")
    if not found.scoped:
        console.message("made of very few samples: without their mean it applies to every question", "dim")


def _store() -> CustomizationStore:
    from crayon.customising.store import CustomizationStore

    return CustomizationStore(options.load_settings({}).customizations_dir)


def _row(name: str, item: Customization | str) -> tuple[str, ...]:
    if isinstance(item, str):
        return (name, "-", "-", "-", "-", "damaged")
    gain = "-" if item.expectation is None else f"{item.expectation.gain:+.1f}"
    if item.expectation is not None:
        gain += " points" if item.expectation.metric == "accuracy" else " nats"
    if not item.fits:
        gain = "base kept"
    return (name, item.base, str(len(item.profiles)), str(item.samples), gain, item.created[:10])
