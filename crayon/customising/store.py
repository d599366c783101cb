"""Customisations on this device: a private folder each, replaced at once or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_data_path

from crayon.customising.customization import Customization, check_name
from crayon.customising.sample import Sample
from crayon.errors import AdapterError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DIRECTORY_VARIABLE = "CRAYON_CUSTOMIZATIONS_DIR"
RECORD = "customization.json"
MAX_RECORD_BYTES = 16 * 2**20
MAX_SAMPLE_BYTES = 256 * 2**20


def default_folder() -> Path:
    """Return the folder of `CRAYON_CUSTOMIZATIONS_DIR`, else one in the user's data folder."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    return Path(given).expanduser() if given else user_data_path("crayon", appauthor=False) / "customizations"


class CustomizationStore:
    """Customisations by name, with the samples and embeddings they were made from beside them.

    The folder is made when something is first saved; only its owner may read it. The record is written last and in one
    step, so that a crash or a full disk leaves what was there before.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)

    def names(self) -> tuple[str, ...]:
        """Return the names, sorted."""
        found = [path.parent.name for path in self.folder.glob(f"*/{RECORD}")]  # none where there is no folder
        return tuple(sorted(name for name in found if not name.startswith(".")))

    def __contains__(self, name: str) -> bool:
        return self._record(name).is_file()

    def stamp(self, name: str) -> tuple[int, int, int]:
        """Return what changes whenever the record does.

        Raises:
            InvalidRequestError: there is no such customisation.
        """
        try:
            found = self._record(name).stat()
        except OSError:
            raise self._unknown(name) from None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def load(self, name: str) -> Customization:
        """Return a customisation by name.

        Raises:
            InvalidRequestError: there is no such customisation.
            AdapterError: its record is damaged.
        """
        path = self._record(name)
        if not path.is_file():
            raise self._unknown(name)
        # The folder says what it is called: a rename does not touch the record.
        return changed(read_export(path), name=name)

    def samples(self, name: str) -> tuple[Sample, ...]:
        """Return the samples that a customisation was made from.

        Raises:
            InvalidRequestError: there is no such customisation.
            AdapterError: they are gone or damaged.
        """
        self.load(name)
        try:
            (path,) = self._folder(name).glob("samples-*.jsonl")
            lines = _read(path, MAX_SAMPLE_BYTES).decode("utf-8").split("\n")
            return tuple(Sample(**json.loads(line)) for line in lines if line)
        except (OSError, ValueError, TypeError):
            raise AdapterError(f"the samples of {name!r} are gone or damaged; customise again") from None

    def save(
        self,
        customization: Customization,
        samples: Sequence[Sample] = (),
        embeddings: NDArray[np.float32] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Keep a customisation; samples and embeddings, shape (samples, dimensions), beside it.

        Args:
            customization: what is kept.
            samples: none leaves those that are there.
            embeddings: likewise.
            replace: whether one of this name may be replaced.

        Raises:
            InvalidRequestError: the name is taken, or the folder cannot be written; nothing was changed.
        """
        folder = self._folder(check_name(customization.name))
        if not replace and customization.name in self:
            raise InvalidRequestError("name", f"{customization.name!r} is taken; choose another name, or replace it")
        files = _beside(samples, embeddings)
        new = not folder.exists()
        try:
            _private_folder(self.folder)
            _private_folder(folder)
            for name, data in files.items():
                write_private(folder / name, data)
            write_private(folder / RECORD, customization.dump())
        except OSError as error:
            if new:
                shutil.rmtree(folder, ignore_errors=True)
            raise InvalidRequestError("customization", f"{folder} cannot be written: {_why(error)}") from None
        if files:
            for path in folder.iterdir():
                if path.name not in {*files, RECORD}:
                    path.unlink(missing_ok=True)

    def rename(self, name: str, new: str) -> None:
        """Give a customisation another name.

        Raises:
            InvalidRequestError: there is no such customisation, the new name is taken or no name, or the folder cannot
                be written.
        """
        source, target = self._folder(name), self._folder(check_name(new))
        if name not in self:
            raise self._unknown(name)
        if target.exists():
            raise InvalidRequestError("name", f"{new!r} is taken; choose another name, or delete that one first")
        try:
            source.rename(target)
        except OSError as error:
            raise InvalidRequestError("name", f"{source} cannot be renamed: {_why(error)}") from None

    def delete(self, name: str) -> None:
        """Remove a customisation with its samples.

        Raises:
            InvalidRequestError: there is no such customisation, or it cannot be removed.
        """
        if name not in self:
            raise self._unknown(name)
        folder = self._folder(name)
        try:
            # The samples first: an interrupted removal leaves none of them behind a name that is gone.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == RECORD):
                path.unlink()
            folder.rmdir()
        except OSError as error:
            raise InvalidRequestError("name", f"{folder} cannot be removed: {_why(error)}") from None

    def export(self, name: str, path: Path | str) -> Customization:
        """Write a customisation without its samples and their embeddings to a file; `read_export` reads it.

        Raises:
            InvalidRequestError: there is no such customisation, the file exists or cannot be written (what was there
                stays as it was).
        """
        found, target = self.load(name).without_samples(), Path(path)
        if target.exists():
            raise InvalidRequestError("path", f"{target} exists; choose another name, or remove it first")
        try:
            write_private(target, found.dump())
        except OSError as error:
            raise InvalidRequestError("path", f"{target} cannot be written: {_why(error)}") from None
        return found

    def _folder(self, name: str) -> Path:
        # Checked, so that no name leads out of the folder.
        return self.folder / check_name(name)

    def _record(self, name: str) -> Path:
        return self._folder(name) / RECORD

    def _unknown(self, name: str) -> InvalidRequestError:
        known = ", ".join(self.names())
        hint = f"there are {known}" if known else "there are none; `crayon customize` makes one"
        return InvalidRequestError("customization", f"{name!r} is unknown; {hint}")


def read_export(path: Path | str) -> Customization:
    """Return the customisation that a file holds.

    Raises:
        InvalidRequestError: the file cannot be read.
        AdapterError: it holds no customisation, or a damaged one.
    """
    try:
        data = _read(Path(path), MAX_RECORD_BYTES)
    except OSError as error:
        raise InvalidRequestError("customization", f"{path} cannot be read: {_why(error)}") from None
    return Customization.parse(data, str(path))


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, at once or not at all.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    # mkstemp creates with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _beside(samples: Sequence[Sample], embeddings: NDArray[np.float32] | None) -> dict[str, bytes]:
    """Return the files beside the record by name; other contents have other names, so none is ever half replaced."""
    found: dict[str, bytes] = {}
    if samples:
        lines = (json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)
        data = "".join(lines).encode()
        found[f"samples-{hashlib.sha256(data).hexdigest()[:16]}.jsonl"] = data
    if embeddings is not None:
        buffer = io.BytesIO()
        np.save(buffer, embeddings, allow_pickle=False)
        found[f"embeddings-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.npy"] = buffer.getvalue()
    return found


def _private_folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The mode above is only for folders that are new, and less the umask.
    path.chmod(0o700)


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise AdapterError(f"{path} is larger than {limit // 2**20} MiB: it is none of ours")
    return data


def _why(error: OSError) -> str:
    return f"{error.strerror or error}; nothing was changed"
