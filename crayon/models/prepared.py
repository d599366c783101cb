"""What preparing a model for this machine's CPU measured and chose, and the file it made."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.errors import ModelFileError
from crayon.machine import inspect_machine
from crayon.models.ggml_types import FILE_TYPES
from crayon.models.store import Store, default_models_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.models.local import LocalModel

SCHEMA = 1
RECORD = "prepared.json"
SOURCE_KEY = "crayon.source.sha256"  # what a prepared file says of itself
TYPE_KEY = "crayon.prepared.type"
SOURCE = "source"  # the choice where no other type is faster within the allowed loss


@dataclass(frozen=True, slots=True)
class Candidate:
    """One quantization type, measured beside the source in the same run.

    Args:
        type: llama.cpp's name of it, or "source".
        size_bytes: of the weights.
        prefill_tps: prompt tokens a second.
        decode_tps: answer tokens a second.
        turn_ratio: how many times as fast as the source a typical turn is.
        perplexity_ratio: perplexity over the source's, on our text.
        kl: mean Kullback-Leibler divergence from the source's next-token distributions, in nats.
        same_top: share of positions where both hold the same token likeliest.
    """

    type: str
    size_bytes: int
    prefill_tps: float
    decode_tps: float
    turn_ratio: float
    perplexity_ratio: float
    kl: float
    same_top: float

    @property
    def loss(self) -> float:
        """The larger of the relative rise of perplexity and the divergence; both are bounded by the same number."""
        return max(self.perplexity_ratio - 1.0, self.kl)


@dataclass(frozen=True, slots=True)
class PreparedInfo:
    """The record of one preparation; `path` is the file to run (None: the source itself is best).

    Where neighbours `disturbed` the choice, the source runs until it can be measured again.
    """

    chosen: str
    reason: str
    candidates: tuple[Candidate, ...]
    max_loss: float
    prompt_tokens: int
    answer_tokens: int
    source_sha256: str
    machine: str
    library: str
    path: Path | None
    sha256: str = ""
    size: int = 0
    mtime_ns: int = 0
    disturbed: bool = False

    @property
    def stale(self) -> str | None:
        """Why the choice no longer holds here, None if it does."""
        if self.machine != machine_key():
            return "it was measured on another CPU"
        if self.library != library_version():
            return f"it was measured with llama-cpp-python {self.library}"
        return None


def machine_key() -> str:
    """Return what the choice depends on: the CPU and its instruction sets."""
    machine = inspect_machine()
    return f"{machine.cpu} [{' '.join(machine.instruction_sets)}]"


def library_version() -> str:
    """Return the installed version of llama-cpp-python."""
    return metadata.version("llama-cpp-python")


def origin(metadata: Mapping[str, str], sha256: str) -> tuple[str, str]:
    """Return hash of the published file and quantization type of a file with this metadata and this hash."""
    number = metadata.get("general.file_type", "")
    known = FILE_TYPES.get(int(number), "") if number.isdigit() else ""
    return metadata.get(SOURCE_KEY, sha256), metadata.get(TYPE_KEY, known)


def describe(local: LocalModel, models_dir: Path | None = None) -> PreparedInfo | None:
    """Return the record of a model's preparation, None if it was never prepared.

    Raises:
        ModelFileError: the record is damaged; preparing again writes a new one.
    """
    path = _folder(local.sha256, models_dir) / RECORD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be read ({error}); run: crayon models prepare {local.name}") from error
    try:
        return _parse(raw, path.parent)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: is damaged ({error}); run: crayon models prepare {local.name}") from error


def usable(local: LocalModel, models_dir: Path | None = None) -> Path | None:
    """Return the prepared file to run instead of `local`, None where there is none that holds here.

    Its size and time of change must be those recorded when its hash was taken.

    Raises:
        ModelFileError: the record is damaged.
    """
    info = describe(local, models_dir)
    if info is None or info.path is None or info.stale or info.source_sha256 != local.sha256:
        return None
    try:
        stat = info.path.stat()
    except OSError:
        return None
    return info.path if (stat.st_size, stat.st_mtime_ns) == (info.size, info.mtime_ns) else None


def keep(info: PreparedInfo, models_dir: Path | None = None) -> None:
    """Write the record, whole or not at all.

    Raises:
        OSError: the disk refuses.
    """
    folder = _folder(info.source_sha256, models_dir)
    folder.mkdir(parents=True, exist_ok=True)
    raw = {**asdict(info), "schema": SCHEMA, "path": info.path.name if info.path else None}
    partial = folder / f"{RECORD}.{os.getpid()}.partial"
    try:
        partial.write_text(json.dumps(raw, indent=2), encoding="utf-8")
        partial.replace(folder / RECORD)
    finally:
        partial.unlink(missing_ok=True)


def file_for(source_sha256: str, file_type: str, models_dir: Path | None = None) -> Path:
    """Return where the prepared file of a type belongs."""
    return _folder(source_sha256, models_dir) / f"{file_type}.gguf"


def _folder(source_sha256: str, models_dir: Path | None) -> Path:
    return Store(models_dir or default_models_dir()).prepared(source_sha256)


def _parse(raw: Any, folder: Path) -> PreparedInfo:
    if raw["schema"] != SCHEMA:
        raise ValueError(f"schema {raw['schema']!r} is not {SCHEMA}")
    name = raw["path"]
    if name is not None and Path(name).name != name:
        raise ValueError(f"path {name!r} leaves its folder")
    fields = {key: raw[key] for key in PreparedInfo.__slots__ if key not in {"candidates", "path", "disturbed"}}
    candidates = tuple(Candidate(**row) for row in raw["candidates"])
    return PreparedInfo(
        **fields, candidates=candidates, path=folder / name if name else None, disturbed=raw.get("disturbed") is True
    )
