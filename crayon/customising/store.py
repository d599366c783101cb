"""Customisations on this device: a private folder each, replaced at once or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_path

from crayon.customising.customization import Customization, check_name
from crayon.customising.material import Material, read_material, stale_files, write_material
from crayon.errors import AdapterError, InvalidRequestError
from crayon.private_file import UNFINISHED, lock_folder, private_folder, sync_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from crayon.customising.sample import Sample

DIRECTORY_VARIABLE = "CRAYON_CUSTOMIZATIONS_DIR"
RECORD = "customization.json"
# Begins the names of files that an engine keeps beside a record: what it computed from the samples.
PREFIX = "prefix-"
MAX_RECORD_BYTES = 16 * 2**20
# A reader that meets a replacement reads again; this often it meets none.
_ATTEMPTS = 8


def default_folder() -> Path:
    """Return the folder of `CRAYON_CUSTOMIZATIONS_DIR`, else one in the user's data folder."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    return Path(given).expanduser() if given else user_data_path("crayon", appauthor=False) / "customizations"


class CustomizationStore:
    """Customisations by name, with the samples and embeddings they were made from beside them.

    The folder is made when something is first saved; only its owner may read it. A process that is killed, or a disk
    that is full, leaves the whole of what was there or the whole of what is new: samples and embeddings are written
    first, under names of their own, the record that names them is replaced last, in one step, and what it names no more
    is removed after that. A name that is new appears when all of it is there.
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
        return read_export(path).renamed(name)

    def samples(self, name: str) -> tuple[Sample, ...]:
        """Return the samples that a customisation was made from.

        Raises:
            InvalidRequestError: there is no such customisation.
            AdapterError: they are gone or damaged.
        """
        return self._kept(name)[0]

    def material(self, name: str) -> Material:
        """Return the samples that a customisation was made from, with their embeddings.

        Raises:
            InvalidRequestError: there is no such customisation.
            AdapterError: they are gone, cut, or not those that its record names.
        """
        samples, vectors = self._kept(name)
        if vectors is None:
            raise _gone(name)
        return Material(samples, vectors)

    def save(
        self,
        customization: Customization,
        samples: Sequence[Sample] = (),
        embeddings: NDArray[np.float32] | None = None,
        *,
        replace: bool = False,
    ) -> Customization:
        """Keep a customisation, with samples and their embeddings beside it; return it as it is kept.

        Args:
            customization: what is kept.
            samples: none leaves those that are there, with their embeddings.
            embeddings: shape (samples, D).
            replace: whether one of this name may be replaced.

        Raises:
            InvalidRequestError: the name is taken, or the folder cannot be written; nothing was changed.
        """
        folder = self._folder(check_name(customization.name))
        key, files = write_material(samples, embeddings)
        if not replace and customization.name in self:
            raise _taken(customization.name)
        try:
            with self._alone():
                if not replace and customization.name in self:
                    raise _taken(customization.name)
                before = _material_of(folder)
                found = changed(customization, material=key or before)
                files = {**files, RECORD: found.dump()}
                if folder.exists():
                    _replace_in(folder, files, anew=found.material != before)
                else:
                    self._create(folder, files)
        except OSError as error:
            raise InvalidRequestError("customization", f"{folder} cannot be written: {_why(error)}") from None
        return found

    def rename(self, name: str, new: str) -> None:
        """Give a customisation another name.

        Raises:
            InvalidRequestError: there is no such customisation, the new name is taken or no name, or the folder cannot
                be written.
        """
        source, target = self._folder(name), self._folder(check_name(new))
        if name not in self:
            raise self._unknown(name)
        try:
            with self._alone():
                if target.exists():
                    raise InvalidRequestError(
                        "name", f"{new!r} is taken; choose another name, or delete that one first"
                    )
                source.rename(target)
        except OSError as error:
            raise InvalidRequestError("name", f"{source} cannot be renamed: {_why(error)}") from None

    def delete(self, name: str) -> None:
        """Remove a customisation with its samples, and with what engines kept of them.

        Raises:
            InvalidRequestError: there is no such customisation, or it cannot be removed.
        """
        if name not in self:
            raise self._unknown(name)
        folder = self._folder(name)
        try:
            with self._alone():
                # The samples first: an interrupted removal leaves none of them behind a name that is gone.
                for path in sorted(folder.iterdir(), key=lambda path: path.name == RECORD):
                    path.unlink(missing_ok=True)
                shutil.rmtree(folder)  # whatever an engine has put there meanwhile
        except OSError as error:
            problem = f"{folder} cannot be removed: {error.strerror or error}; mend that, and delete it again"
            raise InvalidRequestError("name", problem) from None

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

    def _kept(self, name: str) -> tuple[tuple[Sample, ...], NDArray[np.float32] | None]:
        for _ in range(_ATTEMPTS):
            key = self.load(name).material
            try:
                return read_material(self._folder(name), key)
            except (OSError, ValueError):
                if self.load(name).material == key:
                    break  # else it was replaced while it was read
        raise _gone(name)

    def _create(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Write a folder that is not there yet aside, and give it its name when it is whole."""
        aside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))  # with mode 0700
        try:
            for name, data in files.items():
                write_private(aside / name, data)
            sync_folder(aside)
            aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):
            sync_folder(self.folder)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes and threads from writing meanwhile; remove what killed ones left unfinished.

        Raises:
            OSError: the folder cannot be made, or another process writes for too long.
        """
        private_folder(self.folder)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            lock_folder(descriptor)
            for path in self.folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(path, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)  # which unlocks

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
    except ValueError:
        raise InvalidRequestError("customization", "holds a character that no path does") from None
    return Customization.parse(data, str(path))


def _replace_in(folder: Path, files: Mapping[str, bytes], *, anew: bool) -> None:
    """Write the files into a folder that is there, the record last; `anew`: its samples become others.

    With samples, it is made again: what else was there (a calibration) goes, but for prefixes of the same samples.
    """
    try:
        private_folder(folder)
        for name, data in files.items():
            if name == RECORD:
                sync_folder(folder)  # a record never outlives a power cut that its samples do not
                if anew:
                    # Before the record: whatever happens then, none of them lies beside samples that are not its own.
                    _remove(folder.glob(f"{PREFIX}*"))
            write_private(folder / name, data)
        if len(files) > 1:
            kept = () if anew else tuple(folder.glob(f"{PREFIX}*"))
            _remove(path for path in folder.iterdir() if path.name not in files and path not in kept)
    finally:
        # By the record as it is now, so that an interrupt at any moment leaves what that one names.
        with contextlib.suppress(OSError):
            sync_folder(folder)
        with contextlib.suppress(OSError, AdapterError, InvalidRequestError):
            _remove(folder.glob(f"{UNFINISHED}*"))
            there = (folder / RECORD).exists()
            _remove(
                stale_files(folder, read_export(folder / RECORD).material) if there else map(folder.joinpath, files)
            )


def _material_of(folder: Path) -> str:
    """Return what the record in a folder says; "" where there is none, or a damaged one."""
    try:
        return read_export(folder / RECORD).material
    except (InvalidRequestError, AdapterError):
        return ""


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _gone(name: str) -> AdapterError:
    return AdapterError(f"the samples of {name!r} are gone or damaged; customise again")


def _taken(name: str) -> InvalidRequestError:
    return InvalidRequestError("name", f"{name!r} is taken; choose another name, or replace it")


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise AdapterError(f"{path} is larger than {limit // 2**20} MiB: it is none of ours")
    return data


def _why(error: OSError) -> str:
    return f"{error.strerror or error}; nothing was changed"
