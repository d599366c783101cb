"""A pool belongs to one base model: others are refused by name."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from crayon.errors import ModelFileError
from crayon.models.prepared import SOURCE_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from crayon.adapters.pool import Pool
    from crayon.llama.model import Model


def check_bases(pools: Iterable[Pool], model: Model, source_sha256: str, name: str) -> str:
    """Check that pools were made for a model; return the hash of its published file.

    Args:
        pools: none is fine.
        model: what runs.
        source_sha256: that hash, where it is known. A prepared file says it itself; any other is hashed without ("").
        name: what the model is called.

    Raises:
        AdapterMismatchError: a pool was made for another base model; names both.
        ModelFileError: the model's file cannot be read.
    """
    for pool in pools:
        source_sha256 = model.metadata.get(SOURCE_KEY) or source_sha256 or _sha256(model.path)
        pool.check_base(source_sha256, name)
    return source_sha256


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error})") from error
