"""A model's prepared file: made once for this machine, under a lock, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from crayon.contention import BUSY, lacking, look
from crayon.data.texts import quality_text
from crayon.device.prepare import MAX_LOSS, SECONDS, TYPES, TypeChoice, choose, confirmed, measure, write
from crayon.errors import DeadlineExceededError, InvalidRequestError
from crayon.llama import smoke
from crayon.llama.quantize import FILE_TYPES
from crayon.models import LocalModel, Store, default_models_dir, prepared
from crayon.models.partial import disk_errors, need_space
from crayon.models.prepared import SOURCE, PreparedInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEFAULTS: dict[str, Any] = {"types": TYPES, "max_loss": MAX_LOSS, "prompt_tokens": 200, "answer_tokens": 50}
LOCK_SECONDS = 1800.0
_WORK = "work-"
_DISTURBED = (
    "the machine was busy, and what was the fastest was not when measured again; once the machine is quieter, this is "
    "measured anew"
)
QUIET_S = 0.5  # so long others are watched before a disturbed choice is made again


def prepare(
    local: LocalModel,
    *,
    models_dir: Path | None = None,
    types: Sequence[str] | None = None,
    max_loss: float | None = None,
    prompt_tokens: int | None = None,
    answer_tokens: int | None = None,
    threads: int | None = None,
    seconds: float = SECONDS,
    force: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> PreparedInfo:
    """Measure, choose and keep the file to run for `local`.

    A record that holds here and was made with the settings given is returned as it is; a setting of None takes the
    record's, or the default (types `TYPES`, loss `MAX_LOSS`, a turn of 200 tokens in and 50 out). It takes about
    `seconds`: where they do not suffice, less is tried. What is chosen beside busy neighbours is measured again; where
    that does not agree the published file stays, and the next call on a quieter machine measures anew.

    Raises:
        InvalidRequestError: an unknown type, or a limit out of range.
        ModelFileError: the model cannot be read or requantized.
        DownloadError: the disk refuses; NoSpaceError where it is full. Nothing half-written is left.
        DeadlineExceededError: another process has been preparing it for half an hour.
    """
    given = {"max_loss": max_loss, "prompt_tokens": prompt_tokens, "answer_tokens": answer_tokens}
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if types is not None:
        wanted["types"] = tuple(types)
    settings = {**DEFAULTS, **wanted}
    _check(**settings)
    if not 1 <= seconds <= 86_400:
        raise InvalidRequestError("seconds", f"must be from 1 to 86400, not {seconds:g}")
    smoke.check()
    folder = Store(models_dir or default_models_dir()).prepared(local.sha256)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=LOCK_SECONDS):
            known = None if force else _known(local, wanted, models_dir, threads)
            if known is not None:
                return known
            for left in folder.glob(f"{_WORK}*"):  # of a process that was killed; we hold the lock
                shutil.rmtree(left, ignore_errors=True)
            need_space(folder, 2 * local.size)  # the largest type, Q8_0, is at most twice a 4-bit file
            with tempfile.TemporaryDirectory(prefix=_WORK, dir=folder) as work, disk_errors(folder):
                measured = measure(
                    local.path,
                    Path(work),
                    text=quality_text(),
                    source_sha256=local.sha256,
                    types=settings["types"],
                    prompt_tokens=settings["prompt_tokens"],
                    answer_tokens=settings["answer_tokens"],
                    threads=threads,
                    seconds=seconds,
                    progress=progress,
                )
                choice = choose(measured.candidates, settings["max_loss"])
                path, sha256, size, mtime_ns = None, "", 0, 0
                made, disturbed = Path(work) / "chosen.gguf", measured.busy
                if choice.candidate.type != SOURCE:
                    write(local.path, made, choice.candidate.type, local.sha256)
                    turn = settings["prompt_tokens"], settings["answer_tokens"]
                    disturbed = measured.busy and not confirmed(local.path, made, choice.candidate, *turn, threads)
                    if disturbed:
                        choice = TypeChoice(measured.candidates[0], _DISTURBED)
                if choice.candidate.type != SOURCE:
                    sha256 = _sha256(made)
                    path = prepared.file_for(local.sha256, choice.candidate.type, models_dir)
                    made.replace(path)
                    size, mtime_ns = path.stat().st_size, path.stat().st_mtime_ns
                info = PreparedInfo(
                    chosen=choice.candidate.type,
                    reason=choice.reason + _skipped(measured.skipped, seconds),
                    candidates=measured.candidates,
                    max_loss=settings["max_loss"],
                    prompt_tokens=settings["prompt_tokens"],
                    answer_tokens=settings["answer_tokens"],
                    source_sha256=local.sha256,
                    machine=prepared.machine_key(),
                    library=prepared.library_version(),
                    path=path,
                    sha256=sha256,
                    size=size,
                    mtime_ns=mtime_ns,
                    disturbed=disturbed,
                )
                prepared.keep(info, models_dir)
            for other in folder.glob("*.gguf"):
                if other != path:
                    other.unlink()
            return info
    except Timeout:
        raise DeadlineExceededError(f"another process has been preparing {local.name} for half an hour") from None


def _known(
    local: LocalModel, wanted: Mapping[str, Any], models_dir: Path | None, threads: int | None
) -> PreparedInfo | None:
    """Return the record if it holds on this machine and was made as wanted."""
    info = prepared.describe(local, models_dir)
    if info is None or info.stale:
        return None
    made = {
        "types": tuple(candidate.type for candidate in info.candidates if candidate.type != SOURCE),
        "max_loss": info.max_loss,
        "prompt_tokens": info.prompt_tokens,
        "answer_tokens": info.answer_tokens,
    }
    if any(made[name] != value for name, value in wanted.items()) or (info.disturbed and _quiet(threads)):
        return None
    return info if info.path is None or prepared.usable(local, models_dir) else None


def _skipped(types: Sequence[str], seconds: float) -> str:
    return f"; there was no time for {', '.join(types)} in {seconds:g} s" if types else ""


def _quiet(threads: int | None) -> bool:
    """Return whether others leave the machine to us."""
    before = look()
    time.sleep(QUIET_S)
    return lacking(before, look(), threads) < BUSY


def _check(types: Sequence[str], max_loss: float, prompt_tokens: int, answer_tokens: int) -> None:
    for name in types:
        if name not in FILE_TYPES:
            raise InvalidRequestError("types", f"{name!r} is unknown; choose from {', '.join(FILE_TYPES)}")
    if not types:
        raise InvalidRequestError("types", "is empty; name at least one")
    if not 0 <= max_loss < 10:
        raise InvalidRequestError("max_loss", f"must be from 0 to 10, not {max_loss}")
    for field, value in (("prompt_tokens", prompt_tokens), ("answer_tokens", answer_tokens)):
        if not 1 <= value <= 4096:
            raise InvalidRequestError(field, f"must be from 1 to 4096, not {value}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
