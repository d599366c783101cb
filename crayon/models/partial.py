"""A file that becomes visible under its name only when it is whole and verified."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Self, TypeAlias

from crayon.errors import DownloadError, HashMismatchError, NoSpaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

SUFFIX = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartialFile:
    """Writes `<target>.partial`, hashing as it goes; `commit` renames it into place, leaving the block removes it.

    A leftover of a killed process is overwritten. The caller holds the target's lock.
    """

    def __init__(self, target: Path, most: int | None = None) -> None:
        self.target = target
        self.path = partial_path(target)
        self.written = 0
        self._most = most
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        with disk_errors(self.path):
            self.path.unlink(missing_ok=True)
            self._file: BinaryIO = self.path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # On a full disk, closing flushes and fails again; the bytes are thrown away anyhow.
            with disk_errors(self.path):
                self._file.close()
        except DownloadError:
            if error is None:
                raise
        finally:
            self.path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append `data`.

        Raises:
            NoSpaceError: the disk is full.
            HashMismatchError: more bytes than the model has.
        """
        if self._most is not None and self.written + len(data) > self._most:
            raise HashMismatchError(f"more came than the {self._most:,} bytes that the catalogue promises")
        with disk_errors(self.path):
            self._file.write(data)
        self._hash.update(data)
        self.written += len(data)

    def mark(self) -> Mark:
        """Return the present state for `rollback`."""
        return self.written, self._hash.copy()

    def rollback(self, mark: Mark) -> None:
        """Forget what was written since `mark`."""
        self.written, self._hash = mark[0], mark[1].copy()
        with disk_errors(self.path):
            self._file.seek(self.written)
            self._file.truncate()

    def commit(
        self, sha256: str | None, size: int | None, check: Callable[[Path], object] = lambda _: None
    ) -> tuple[str, int]:
        """Verify, flush to disk and rename into place; return the SHA-256 and the size in bytes.

        Raises:
            HashMismatchError: the bytes are not those expected; nothing is kept.
            ModelFileError: `check` refused the file; nothing is kept.
            NoSpaceError: the disk is full.
        """
        digest = self._hash.hexdigest()
        if size is not None and self.written != size:
            raise HashMismatchError(f"{self.written:,} bytes came, the catalogue promises {size:,}")
        if sha256 is not None and digest != sha256:
            raise HashMismatchError(f"the SHA-256 is {digest}, the catalogue promises {sha256}")
        with disk_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            check(self.path)
            self.path.replace(self.target)
            sync_directory(self.target.parent)
        return digest, self.written


Mark: TypeAlias = "tuple[int, hashlib._Hash]"


def partial_path(target: Path) -> Path:
    """Return where the unfinished bytes of `target` lie."""
    return target.with_name(target.name + SUFFIX)


def sync_directory(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def need_space(folder: Path, count: int) -> None:
    """Check that `count` bytes are free where `folder` lies.

    Raises:
        NoSpaceError: they are not; says how much is missing.
    """
    free = shutil.disk_usage(folder).free
    if free < count:
        raise NoSpaceError(
            f"{count / 1e6:,.0f} MB are needed in {folder} while downloading, {free / 1e6:,.0f} MB are free; "
            "make room or set CRAYON_MODELS_DIR to another disk"
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's word for a full or unwritable disk into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpaceError(
                f"the disk with {path.parent} is full ({error.strerror}); "
                "make room or set CRAYON_MODELS_DIR to another disk"
            ) from error
        raise DownloadError(f"{path} cannot be written: {error.strerror or error}") from error
