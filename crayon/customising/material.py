"""What a customisation was made from: samples and their embeddings, in two files that one hash binds to its record."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.sample import Sample
from crayon.errors import AdapterError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MAX_BYTES = 256 * 2**20
# `samples-` and `embeddings-` with the hash of both; before there was one of both, each with its own.
_SIDE_FILE = re.compile(r"(?:samples-([0-9a-f]{16})\.jsonl|embeddings-([0-9a-f]{16})\.npy)")


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The samples of a customisation, and their embeddings, shape (samples, D), in the same order."""

    samples: tuple[Sample, ...]
    vectors: NDArray[np.float32]


def write_material(
    samples: Sequence[Sample], vectors: NDArray[np.float32] | None = None
) -> tuple[str, dict[str, bytes]]:
    """Return the hash of samples and embeddings, 16 hex digits, and their files by name; none of none.

    Other contents have other names, so no file is ever half replaced.

    Raises:
        InvalidRequestError: the embeddings are not one for each sample.
    """
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(samples)):
        raise InvalidRequestError("embeddings", f"must be one for each of {len(samples)} samples")
    if not samples:
        return "", {}
    lines = "".join(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples).encode()
    if vectors is None:
        key = _key(lines, None)
        return key, {f"samples-{key}.jsonl": lines}
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(vectors, np.float32), allow_pickle=False)
    key = _key(lines, buffer.getvalue())
    return key, {f"samples-{key}.jsonl": lines, f"embeddings-{key}.npy": buffer.getvalue()}


def material_key(samples: Sequence[Sample], vectors: NDArray[np.float32] | None = None) -> str:
    """Return the hash that a record of these samples and embeddings holds: 16 hex digits, "" of none."""
    return write_material(samples, vectors)[0]


def read_material(folder: Path, key: str) -> tuple[tuple[Sample, ...], NDArray[np.float32] | None]:
    """Return the samples in a folder, and their embeddings if they were kept.

    Args:
        folder: of the customisation.
        key: what its record says; "" in one that is older than the hash, whose files have each their own.

    Raises:
        OSError: a file is gone or cannot be read.
        ValueError: a file is cut, or of another hash.
    """
    lines, data = _bound(folder, key) if key else _unbound(folder)
    samples = tuple(_sample(line) for line in lines.decode("utf-8").split("\n") if line)
    if not samples:
        raise ValueError("there are no samples")
    return samples, None if data is None else _vectors(data, len(samples))


def stale_files(folder: Path, key: str) -> list[Path]:
    """Return the files of samples and embeddings in a folder that are not those of the record with this hash.

    Raises:
        OSError: the folder cannot be read.
    """
    found: list[Path] = []
    for path in folder.iterdir():
        match = _SIDE_FILE.fullmatch(path.name)
        if match and (_hash_in(match) != key if key else not _names_itself(path)):
            found.append(path)
    return found


def _bound(folder: Path, key: str) -> tuple[bytes, bytes | None]:
    lines = _read(folder / f"samples-{key}.jsonl")
    vectors = folder / f"embeddings-{key}.npy"
    data = _read(vectors) if vectors.exists() else None
    if _key(lines, data) != key:
        raise ValueError("another hash than the record's")
    return lines, data


def _unbound(folder: Path) -> tuple[bytes, bytes | None]:
    """Return what lies beside a record without a hash: files that are named by their own."""
    own = [path for path in folder.iterdir() if _SIDE_FILE.fullmatch(path.name) and _names_itself(path)]
    (samples,) = (path for path in own if path.name.startswith("samples-"))
    vectors = [path for path in own if path.name.startswith("embeddings-")]
    return _read(samples), _read(vectors[0]) if len(vectors) == 1 else None


def _names_itself(path: Path) -> bool:
    match = _SIDE_FILE.fullmatch(path.name)
    return bool(match) and hashlib.sha256(_read(path)).hexdigest()[:16] == _hash_in(match)


def _hash_in(match: re.Match[str] | None) -> str:
    return (match[1] or match[2]) if match else ""


def _key(lines: bytes, vectors: bytes | None) -> str:
    parts = [hashlib.sha256(part).digest() for part in (lines, vectors) if part is not None]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _sample(line: str) -> Sample:
    try:
        return Sample(**json.loads(line))
    except TypeError as error:  # another record than a sample's
        raise ValueError(str(error)) from None


def _vectors(data: bytes, count: int) -> NDArray[np.float32]:
    found = np.load(io.BytesIO(data), allow_pickle=False)
    if found.dtype != np.float32 or found.ndim != 2 or len(found) != count or not np.isfinite(found).all():
        raise ValueError("not one embedding for each sample")
    return found  # type: ignore[no-any-return] # numpy.load says nothing of what it read


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise AdapterError(f"{path} is larger than {MAX_BYTES // 2**20} MiB: it is none of ours")
    return data
