"""A pool belongs to one base model: others are refused by name."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from crayon.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from crayon.adapters.pool import Pool


def check_bases(pools: Iterable[Pool], path: Path, source_sha256: str, name: str) -> str:
    """Check that pools were made for the model in `path`; return the hash of its published file.

    Args:
        pools: none is fine.
        path: the file that runs.
        source_sha256: hash of the published file behind it; where it is not known (""), `path` is that file.
        name: what the model is called.

    Raises:
        AdapterMismatchError: a pool was made for another base model; names both.
        ModelFileError: `path` cannot be read.
    """
    for pool in pools:
        source_sha256 = source_sha256 or _sha256(path)
        pool.check_base(source_sha256, name)
    return source_sha256


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error})") from error
