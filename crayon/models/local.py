"""From a reference to a verified file on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crayon.errors import ModelFileError, UnknownModelError
from crayon.models.catalogue import Catalogue, CatalogueEntry, load_catalogue
from crayon.models.reference import PathReference, parse_reference
from crayon.models.store import Record, Store, default_models_dir

if TYPE_CHECKING:
    from crayon.models.progress import ProgressCallback


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model file on this machine whose SHA-256 is known to be `sha256`; `size` in bytes.

    `entry` is the catalogue's entry for these bytes, None when it has none.
    """

    path: Path
    name: str
    sha256: str
    size: int
    entry: CatalogueEntry | None = None


def resolve(
    reference: str,
    *,
    download: bool = True,
    progress: ProgressCallback | None = None,
    models_dir: Path | None = None,
    catalogue: Catalogue | None = None,
) -> LocalModel:
    """Return the verified file that `reference` means, fetching it first when it is absent and `download` allows.

    Raises:
        UnknownModelError: the reference means nothing, or the model is absent and `download` is False.
        ModelFileError: the file is truncated, foreign, or not what the catalogue promises.
        DownloadError: no source could deliver it.
        DeadlineExceededError: another process has been pulling it for an hour.
    """
    catalogue = catalogue or load_catalogue()
    store = Store(models_dir or default_models_dir())
    parsed = parse_reference(reference, catalogue)
    if isinstance(parsed, PathReference):
        record = store.verify_path(parsed.path)
        entry = catalogue.with_sha256(record.sha256)
        return _local(record, entry.name if entry else parsed.path.stem, entry)
    wanted = parsed.wanted if isinstance(parsed, CatalogueEntry) else parsed
    found: Record | None = None
    try:
        found = store.verify(wanted)
    except ModelFileError as error:
        if not download:
            raise ModelFileError(f"{error}; fetch it again: crayon models pull {reference}") from None
    if found is None:
        if not download:
            raise UnknownModelError(f"the model {wanted.name} is not on this machine: crayon models pull {reference}")
        from crayon.models.pull import pull

        found = pull(wanted, store, progress)
    return _local(found, wanted.name, catalogue.with_sha256(found.sha256))


def _local(record: Record, name: str, entry: CatalogueEntry | None) -> LocalModel:
    return LocalModel(Path(record.path), name, record.sha256, record.size, entry)
