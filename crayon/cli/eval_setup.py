"""What the commands of `crayon eval` share: the model, the pool and the folder of answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.adapters import Pool
    from crayon.device import DeviceEngine
    from crayon.device.opening import Opening
    from crayon.eval.customize import ModelUnderTest

# Each has its own context and adapters in memory.
MOST_WORKERS = 4
ANSWERS = "answers.sqlite"

ModelArgument = Annotated[str, typer.Argument(metavar="[MODEL]", help="A prepared model.")]
PoolOption = Annotated[
    str | None,
    typer.Option("--pool", metavar="POOL", help="The pool to blend, by name or folder (default: the model's)."),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, max=16, help="Questions answered side by side, one core each (0: all).")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="For answers, which a later run takes up, and for the result."),
]


def pool_of(found: Opening, pool: str | None) -> Pool:
    """Return the pool that was asked for, or the model's own.

    Raises:
        AdapterError: there is none, or it was made for another model.
    """
    from crayon.device import opening
    from crayon.errors import AdapterError

    pools = opening.pools([pool] if pool else opening.AUTO, found.source_sha256)
    if not pools:
        raise AdapterError(f"no pool is shipped for {found.name}; name one with --pool")
    pools[0].check_base(found.source_sha256, found.name)
    return pools[0]


def model_of(reference: str, models_dir: Path | None) -> tuple[Opening, ModelUnderTest]:
    """Return the model to measure, as it is on this machine."""
    from crayon.device import opening
    from crayon.eval.customize import ModelUnderTest
    from crayon.models import resolve

    found = opening.find(reference, models_dir=models_dir, download=False)
    if found.path == resolve(reference, download=False, models_dir=models_dir).path:
        console.warning(f"{found.name} was never prepared for this machine: the published file is measured")
    return found, ModelUnderTest.of(found.path, found.name, found.path.stem)


def open_engine(found: Opening, pools: Sequence[Pool]) -> DeviceEngine:
    """Open the device with pools."""
    from crayon.data.texts import background_texts
    from crayon.device import DeviceEngine

    return DeviceEngine(
        found.path,
        name=found.name,
        background=background_texts(),
        cache_dir=found.cache_dir,
        source_sha256=found.source_sha256,
        # Short prompts gain little from threads, and threads that wait for each other lose much beside other work.
        threads=1,
        pools=pools,
    )


def default_folder() -> Path:
    """Return where answers and results are kept if nothing else is said."""
    import platformdirs

    return platformdirs.user_cache_path("crayon", appauthor=False) / "eval"
