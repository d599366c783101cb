"""What the commands of `crayon eval` share: the model, the pool and the folder of answers."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.shared import console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from crayon.adapters import Pool
    from crayon.client.remote import RemoteEngine
    from crayon.device import DeviceEngine
    from crayon.device.opening import Opening
    from crayon.lab.eval.customize import ModelUnderTest

# Each has its own context and adapters in memory.
MOST_WORKERS = 4
ANSWERS = "answers.sqlite"

ModelArgument = Annotated[str, typer.Argument(metavar="[MODEL]", help="A prepared model.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="MODEL", help="The same as MODEL: what is measured.")
]
PoolOption = Annotated[
    str | None,
    typer.Option("--pool", metavar="POOL", help="The pool to blend, by name or folder (default: the model's)."),
]
AllDataOption = Annotated[
    Path | None, typer.Option("--all-data", metavar="FOLDER", help="A pool of one member trained on all data.")
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, max=16, help="Questions answered side by side, one core each (0: all).")
]
ServerOption = Annotated[
    str | None, typer.Option("--server", metavar="ADDRESS", help="A running server (default: one is started).")
]
ServerModelOption = Annotated[
    str, typer.Option("--server-model", metavar="MODEL", help="What the started server runs.")
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


def pool_for(source_sha256: str, name: str, pool: str | None) -> tuple[Pool | None, Path | None]:
    """Return the pool that was asked for or is shipped for a model, and its folder; None where there is none.

    Raises:
        AdapterError: the pool asked for is not there, or was made for another model.
    """
    from crayon.adapters import Pool, find_pool
    from crayon.device import opening

    folder = find_pool(pool) if pool else opening.shipped(source_sha256)
    if folder is None:
        return None, None
    found = Pool.open(folder)
    found.check_base(source_sha256, name)
    return found, folder


def model_of(reference: str, models_dir: Path | None) -> tuple[Opening, ModelUnderTest]:
    """Return the model to measure, as it is on this machine."""
    from crayon.device import opening
    from crayon.lab.eval.customize import ModelUnderTest
    from crayon.models import resolve

    found = opening.find(reference, models_dir=models_dir, download=False)
    if found.path == resolve(reference, download=False, models_dir=models_dir).path:
        console.warning(f"{found.name} was never prepared for this machine: the published file is measured")
    return found, ModelUnderTest.of(found.path, found.name, found.path.stem)


def words(text: str | None) -> tuple[str, ...] | None:
    """Return the words of a list with commas between, None where none was given."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def serve(stack: ExitStack, address: str | None, model: str, timeout: float = 600.0) -> RemoteEngine:
    """Return the server to ask, as long as the stack is open: the one at the address, or a child.

    Args:
        stack: ends both.
        address: of a server that runs already.
        model: what a child serves.
        timeout: seconds for a request.
    """
    from crayon.cli.shared.child_server import ChildServer
    from crayon.client.remote import RemoteEngine

    if address is None:
        console.message(f"starting a server of {model}")
        child = ChildServer(["--model", model, "--host", "127.0.0.1", "--no-tune"])
        address = stack.enter_context(child).address
    return stack.enter_context(closing(RemoteEngine(address, timeout=timeout)))


def open_engine(found: Opening, pools: Sequence[Pool], threads: int | None = 1) -> DeviceEngine:
    """Open the device with pools.

    With one thread, as is best for many questions side by side: short prompts gain little from threads, and threads
    that wait for each other lose much beside other work. None takes the threads that users have.
    """
    from crayon.data.texts import background_texts, everyday_groups
    from crayon.device import DeviceEngine

    return DeviceEngine(
        found.path,
        name=found.name,
        background=background_texts(),
        everyday=everyday_groups(),
        cache_dir=found.cache_dir,
        source_sha256=found.source_sha256,
        threads=threads,
        pools=pools,
    )


def default_folder() -> Path:
    """Return where answers and results are kept if nothing else is said."""
    import platformdirs

    return platformdirs.user_cache_path("crayon", appauthor=False) / "eval"
