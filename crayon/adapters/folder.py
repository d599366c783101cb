"""Reading and writing a pool's folder: nothing outside it, nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from typing import TYPE_CHECKING

from crayon.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
PARTIAL = ".partial"
# What a killed process left of a file is removed by a later one; a younger part may be somebody's who still writes.
STALE_SECONDS = 3600.0
# As many of a file's parts are looked at.
_MOST_PARTS = 8
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refuse_pickle(path: Path) -> None:
    """Refuse files that run code when they are loaded.

    Raises:
        AdapterError: `path` ends like a pickled file.
    """
    if path.suffix.lower() in PICKLES:
        raise AdapterError(
            f"{path}: is a pickled file, which can run any code when it is loaded; Crayon reads safetensors only"
        )


def read_inside(folder: Path, name: str, most: int) -> bytes:
    """Return the bytes of a file that lies in `folder`.

    Raises:
        AdapterError: it is missing, no plain file, larger than `most` bytes, or a link that leads out of the folder.
    """
    path = folder / name
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve(strict=True)):
            raise AdapterError(f"{path}: leads out of its folder, to {real}; copy the file into the folder")
        if not real.is_file():
            raise AdapterError(f"{path}: is no plain file")
        with real.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise AdapterError(f"{path}: has {size:,} bytes, at most {most:,} are expected")
            data = file.read(most + 1)
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file{_pickles_there(folder)}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, in Python 3.11 and 3.12
        raise AdapterError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > most:
        raise AdapterError(f"{path}: grew while it was read")
    return data


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files, each under its name only when every one of them is whole on the disk; the last name comes last.

    A file that is there is replaced. Whatever else the folder holds is left alone. A process that is killed between two
    names leaves the files that have none yet: `parts_of` finds them.

    Raises:
        AdapterError: the disk is full or cannot be written; what was there before is still there, unchanged.
    """
    mark = f".{secrets.token_hex(4)}{PARTIAL}"
    written: list[Path] = []
    made, named = not folder.exists(), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            part = folder / (name + mark)
            written.append(part)
            _write_whole(part, data)
        for name in files:
            (folder / (name + mark)).replace(folder / name)
            named += 1
        _remove_stale(folder, files)
    except BaseException as error:
        for part in () if named else written:  # the last of files whose first have their names belong to those
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if not isinstance(error, OSError):
            raise
        why = "the disk is full" if error.errno in _FULL else error.strerror or str(error)
        left = "write it again" if named else "nothing was changed"
        raise AdapterError(f"{folder}: cannot be written ({why}); {left}") from None


def parts_of(folder: Path, name: str) -> list[str]:
    """Return the names of whole or cut files that were to become the file `name`, the newest first."""
    found: list[tuple[float, str]] = []
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{name}.*{PARTIAL}"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, path.name))
    return [part for _, part in sorted(found, reverse=True)[:_MOST_PARTS]]


def _remove_stale(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        for part in parts_of(folder, name):
            with contextlib.suppress(OSError):
                if (folder / part).stat().st_mtime < time.time() - STALE_SECONDS:
                    (folder / part).unlink()


def _write_whole(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _pickles_there(folder: Path) -> str:
    """Name a pickled file that may be what was meant."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in PICKLES:
                return f"; {path.name} is a pickled file, which Crayon does not load: convert it to safetensors"
    return ""
