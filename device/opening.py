"""From a model reference to the file that the device runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import ModelFileError
from crayon.models import default_models_dir, prepared, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.models import ProgressCallback

logger = logging.getLogger("crayon.device")


@dataclass(frozen=True, slots=True)
class Opening:
    """The file to run, its name, the hash of the published file behind it, and a folder for what is derived."""

    path: Path
    name: str
    source_sha256: str
    cache_dir: Path


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
    path = None
    if prepared_file:
        try:
            path = prepared.usable(local, models_dir)
        except ModelFileError as error:  # the source still runs
            logger.warning("%s", error)
    return Opening(path or local.path, local.name, local.sha256, folder / "derived")
