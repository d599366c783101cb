"""`crayon pool train`: from tasks to a pool."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.shared import console, options
from crayon.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from crayon.training.build import Event
    from crayon.training.recipe import Recipe


_READER = "reader"  # the recipe module is imported when training begins


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="[RECIPE]", help="A recipe of Crayon's by name, or a TOML file of yours.")
    ] = "smollm2-135m-instruct",
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the pool. If not given: ./NAME, as the recipe names it.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints; a run that was stopped goes on from it.")
    ] = None,
    members: Annotated[
        list[str] | None, typer.Option("--member", help="Only train this member (may be repeated).")
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(help="Make this many members of clusters of similar questions, in place of the recipe's tasks."),
    ] = None,
    all_data: Annotated[
        bool,
        typer.Option(
            "--all-data",
            help="Train one adapter on all tasks, with as many batches as the whole pool: what `crayon eval customize "
            "--all-data` holds the pool against.",
        ),
    ] = False,
    independent: Annotated[
        bool, typer.Option("--independent", help="Give each member an A of its own, trained with its B.")
    ] = False,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="POOL",
            help="Train the recipe's reader only, and write this pool with it: its other members stay as they are.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where torch computes: cpu, cuda, mps.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Type of frozen weights in multiplications: auto, float32, bfloat16.")
    ] = "auto",
) -> None:
    """Train a pool of adapters for a catalogue model; needs the extra 'train'.

    The recipe names the base model, its members' tasks and how they are trained. Datasets are read from $CRAYON_DATA
    (default: ../shared/data); files of your own samples work too. Members are trained on the file that the device
    runs, in the very prompt that `ask` sends, and measured on items they never saw; those that gain too little are
    left out and listed. Example: crayon pool train my-recipe.toml --out my-pool
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "accelerate")):
        raise MissingExtraError("train", "`crayon pool train`")
    from crayon.adapters import Pool
    from crayon.adapters.find import find_pool
    from crayon.training.build import Builder
    from crayon.training.recipe import load_recipe

    if dtype not in {"auto", "float32", "bfloat16"}:
        raise ConfigError("--dtype", f"must be auto, float32 or bfloat16, not {dtype!r}")
    plan = load_recipe(recipe)
    if members:
        plan = _only(plan, members)
    if clusters is not None:
        plan = replace(plan, clusters=clusters)
    if independent or all_data:
        plan = replace(plan, kind="independent" if independent else plan.kind, reader=None)
    if into is not None:
        if members or clusters is not None or independent or all_data:
            raise ConfigError("--into", "trains the reader only; leave out --member, --clusters and what makes a pool")
        plan = plan.only_reader()
    old = None if into is None else Pool.open(find_pool(into))
    folder = out or Path(f"{plan.name}-all-data" if all_data else plan.name)
    started = time.monotonic()
    settings = options.load_settings({})
    builder = Builder(
        plan,
        work or folder.with_name(f"{folder.name}.work"),
        models_dir=settings.models_dir,
        device=device,
        dtype=dtype,
        progress=_Progress(),
    )
    pool = builder.into(old) if old is not None else builder.all_data() if all_data else builder.build()
    pool.save(folder)
    console.message(f"{pool.id}: {len(pool)} members in {(time.monotonic() - started) / 60:.0f} min, in {folder}")
    for member in pool.manifest.members:
        score = member.score
        gain = f"{score.base:5.1f} -> {score.member:5.1f} ({score.metric}, n={score.n})" if score else ""
        print(f"{member.name:<24} {gain}")
    for rejected in pool.manifest.rejected:
        print(f"{rejected.name:<24} left out: {rejected.reason}")


def _only(plan: Recipe, names: list[str]) -> Recipe:
    """Return a recipe with some of its members; the reader stays if it is among them."""
    known = {member.name: member for member in plan.members}
    reader = plan.reader if _READER in names else None
    unknown = [name for name in names if name not in known and not (reader and name == _READER)]
    if unknown:
        raise ConfigError("--member", f"{unknown[0]!r} is not in the recipe; there are {', '.join(known)}")
    chosen = tuple(known[name] for name in dict.fromkeys(names) if name != _READER)
    return replace(plan, members=chosen, reader=reader)


class _Progress:
    """One line for each twentieth of each part, with the time since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = ("", -1)

    def __call__(self, event: Event) -> None:
        mark = (event.what, int(event.done * 20))
        if mark == self._last:
            return
        self._last = mark
        seconds = int(time.monotonic() - self._started)
        console.message(f"{seconds // 60:3d}:{seconds % 60:02d}  {event.what} {event.done:4.0%}  {event.note}", "dim")
