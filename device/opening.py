"""From a model reference to the file that the device runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from crayon.adapters.find import find_pool, shipped_pools_dir
from crayon.adapters.pool import MANIFEST, Pool, read_manifest
from crayon.errors import AdapterError, InvalidRequestError, ModelFileError
from crayon.llama.trial import ensure_opens
from crayon.models import default_models_dir, prepared, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.models import ProgressCallback

logger = logging.getLogger("crayon.device")

AUTO: Final = "auto"
PoolReferences: TypeAlias = "Literal['auto'] | Sequence[Pool | Path | str] | None"


@dataclass(frozen=True, slots=True)
class Opening:
    """The file to run, its name, hashes of the published file behind it and of itself, a folder for what is derived.

    `repeat_penalty` is the one that suits the model's plain answers; None: none.
    """

    path: Path
    name: str
    source_sha256: str
    file_sha256: str
    cache_dir: Path
    repeat_penalty: float | None = None


def find(
    reference: str,
    *,
    models_dir: Path | None = None,
    download: bool = True,
    prepared_file: bool = True,
    progress: ProgressCallback | None = None,
) -> Opening:
    """Return what to run for a reference: the file prepared for this machine where there is one, else the model.

    Raises:
        ModelError: the model cannot be found, fetched or read.
    """
    folder = models_dir or default_models_dir()
    local = resolve(reference, download=download, progress=progress, models_dir=models_dir)
    path, file_sha256 = local.path, local.sha256
    if local.entry is None:  # no catalogue vouches for it
        ensure_opens(path)
    if prepared_file:
        try:
            made, info = prepared.usable(local, models_dir), prepared.describe(local, models_dir)
        except ModelFileError as error:  # the source still runs
            logger.warning("%s", error)
        else:
            if made is not None and info is not None and info.path == made:
                path, file_sha256 = made, info.sha256
    penalty = None if local.entry is None else local.entry.repeat_penalty
    return Opening(path, local.name, local.sha256, file_sha256, folder / "derived", penalty)


def pools(references: PoolReferences, source_sha256: str) -> tuple[Pool, ...]:
    """Return pools as they were named: folders, names or pools; "auto" is the one shipped for the model, if any.

    "auto" may stand alone or among others.

    Raises:
        AdapterError: a pool that was named is not there or cannot be read.
        InvalidRequestError: a lone text that is not "auto".
    """
    if references is None:
        return ()
    if isinstance(references, str) and references != AUTO:
        raise InvalidRequestError("pools", f"must be 'auto', None or a list such as [{references!r}]")
    found: list[Pool] = []
    for item in [references] if isinstance(references, str) else references:
        if isinstance(item, Pool):
            found.append(item)
        else:
            folder = shipped(source_sha256) if item == AUTO else find_pool(item)
            if folder is not None:
                found.extend(open_shipped(folder) if item == AUTO else [Pool.open(folder)])
    return tuple(found)


def shipped(source_sha256: str) -> Path | None:
    """Return the folder of the pool that comes with Crayon for a model, if there is one; reads manifests only."""
    for path in sorted(shipped_pools_dir().glob(f"*/{MANIFEST}")):
        try:
            if read_manifest(path.parent).base.source_sha256 == source_sha256:
                return path.parent
        except AdapterError as error:  # the model still answers without it
            logger.warning("%s", error)
    return None


def open_shipped(folder: Path) -> tuple[Pool, ...]:
    """Return the pool of a folder; none, and a warning, where it is damaged: the model still answers without it."""
    try:
        return (Pool.open(folder),)
    except AdapterError as error:
        logger.warning("%s", error)
        return ()
