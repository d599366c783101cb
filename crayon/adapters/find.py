"""Where pools are: shipped with Crayon, in the user's folder, or in any folder that is named."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from crayon.adapters.folder import refuse_pickle
from crayon.adapters.manifest import check_name
from crayon.adapters.pool import MANIFEST
from crayon.errors import AdapterError

DIRECTORY_VARIABLE = "CRAYON_POOLS_DIR"


def user_pools_dir() -> Path:
    """Return the folder of `CRAYON_POOLS_DIR`, else the pools in the user's data folder; it may not exist yet."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("crayon", appauthor=False) / "pools"


def shipped_pools_dir() -> Path:
    """Return the folder of the pools that come with Crayon."""
    from crayon import data

    return Path(data.__file__).parent / "pools"


def pool_names() -> tuple[str, ...]:
    """Return the names of the shipped pools and of those in the user's folder, in order."""
    found: set[str] = set()
    for folder in (shipped_pools_dir(), user_pools_dir()):
        try:
            found.update(path.name for path in folder.iterdir() if (path / MANIFEST).is_file())
        except OSError:
            continue  # no such folder yet
    return tuple(sorted(found))


def find_pool(reference: Path | str) -> Path:
    """Return the folder of a pool.

    Args:
        reference: the name of a shipped pool, of one in the user's folder, or else the path of a folder. A name means
            the shipped pool first; write `./NAME` for a folder that lies here.

    Raises:
        AdapterError: there is no such pool.
    """
    refuse_pickle(Path(reference))
    if isinstance(reference, Path) or os.sep in reference or "/" in reference or reference.startswith("~"):
        folder = Path(reference)
        with contextlib.suppress(RuntimeError):  # a user without a home: the folder is not there either
            folder = folder.expanduser()
        if not folder.is_dir():
            raise AdapterError(f"{folder}: no such folder")
        return folder
    check_name(reference, "the pool's name")
    for place in (shipped_pools_dir(), user_pools_dir(), Path()):
        if (place / reference / MANIFEST).is_file():
            return place / reference
    known = ", ".join(pool_names()) or "none"
    raise AdapterError(f"there is no pool {reference!r}; known: {known}; a folder needs a path, such as ./{reference}")
