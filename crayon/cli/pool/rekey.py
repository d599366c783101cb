"""`crayon pool rekey`: keys made anew, adapters as they are."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import Annotated

import typer

from crayon.cli.shared import console, options
from crayon.cli.shared.pull_progress import pull_progress


def rekey(
    pool: Annotated[str, typer.Argument(metavar="POOL", help="A name of `crayon pool ls`, or a folder.")],
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="The recipe it was trained by: one of Crayon's by name, or a file.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to. If not given: the pool's own folder.")
    ] = None,
) -> None:
    """Make a pool's keys anew from its members' questions: its adapters stay as they are, nothing is trained.

    Needed once for pools that an older Crayon trained: texts are embedded otherwise now. The recipe says where the
    questions are; datasets are read from $CRAYON_DATA. The pool gets a new id, so what was customised with it has to be
    customised again. Example: crayon pool rekey ./my-pool my-recipe.toml
    """
    from crayon.adapters import Pool
    from crayon.adapters.find import find_pool
    from crayon.device import opening
    from crayon.training.embedder import Embedder
    from crayon.training.recipe import load_recipe
    from crayon.training.rekey import rekey as rekeyed

    plan = load_recipe(recipe)
    folder = find_pool(pool)
    opened = Pool.open(folder)
    settings = options.load_settings({})
    name = opened.manifest.base.name
    with pull_progress(name) as progress:
        found = opening.find(name, models_dir=settings.models_dir, progress=progress)
    opened.check_base(found.source_sha256, found.name)
    made = rekeyed(opened, plan, Embedder(found.path, _tell, settings.device.threads))
    made.save(out or folder)
    console.message(f"{made.id} is ready: {out or folder}", "green")
    console.message(f"it was {opened.id}; what was customised with that is to be customised again")


def _tell(done: float) -> None:
    console.message(f"embedding questions {done:4.0%}", "dim")
