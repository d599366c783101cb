"""The safetensors file of a pool: what it must hold, number by number."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.shared_a import b_size
from crayon.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from crayon.adapters.lora import Matrix
    from crayon.adapters.manifest import Manifest

_HEADER_BYTES = 32 << 20
_MOST_BYTES = 16 << 30
_TYPES: dict[str, np.dtype[np.floating]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_UNIT = 1e-3


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data`, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def as_float32(tensor: NDArray[np.floating]) -> Matrix:
    """Return a contiguous, read-only float32 array of the same numbers."""
    array = np.ascontiguousarray(tensor, np.float32)
    if array.flags.writeable:
        # A caller's array stays the caller's to write.
        array = array.copy() if array is tensor else array
        array.setflags(write=False)
    return array


def rounded(tensor: NDArray[np.floating], manifest: Manifest) -> NDArray[np.floating]:
    """Return a copy of `tensor` in the type in which the pool keeps A and B.

    Raises:
        AdapterError: a number is not finite or too large for that type.
    """
    kind = _TYPES[manifest.precision]
    peak = float(np.abs(tensor).max(initial=0.0))
    # Written so that NaN is refused too.
    if not peak <= float(np.finfo(kind).max):
        raise AdapterError(f"pool: A or B hold a number that {manifest.precision} cannot ({peak})")
    return np.array(tensor, kind, order="C")


def most_bytes(manifest: Manifest) -> int:
    """Return a bound on the size of the file."""
    sides = sum(target.outputs + target.inputs for target in manifest.targets)
    width = manifest.encoder.dimensions if manifest.encoder else 0
    numbers = len(manifest.members) * (sides * manifest.rank + width) + width
    if manifest.encoder and manifest.encoder.head:
        numbers += width * width
    return min(4 * numbers + _HEADER_BYTES, _MOST_BYTES)


def parse(data: bytes, wanted_sha256: str, where: str) -> dict[str, NDArray[np.floating]]:
    """Return the tensors of a safetensors file.

    Raises:
        AdapterError: the bytes are not the promised ones, truncated, or hold a type other than F16 and F32.
    """
    # Here, so that a list of pools needs no library for tensors.
    from safetensors import SafetensorError, deserialize

    if (found := sha256(data)) != wanted_sha256:
        raise AdapterError(
            f"{where}: is damaged or was changed: its SHA-256 is {found[:12]}, pool.json says {wanted_sha256[:12]}"
        )
    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]  # upstream gives no types
    except SafetensorError as error:
        raise AdapterError(f"{where}: is no whole safetensors file ({error})") from None
    tensors: dict[str, NDArray[np.floating]] = {}
    for name, entry in entries:
        kind = _TYPES.get(str(entry["dtype"]))
        if kind is None:
            raise AdapterError(f"{where}: {name[:90]} has the type {entry['dtype']}; F16 and F32 can be read")
        if not entry["data"]:
            raise AdapterError(f"{where}: {name[:90]} is empty")
        tensors[name] = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    return tensors


def dump(tensors: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Return the safetensors file that holds `tensors`: the same bytes for the same numbers."""
    from safetensors.numpy import save

    return save(dict(tensors))


def check(manifest: Manifest, tensors: Mapping[str, NDArray[np.floating]]) -> None:
    """Check that the tensors are those that the manifest promises.

    Raises:
        AdapterError: one is missing or unknown, has another shape or type, or holds a number that is not finite.
    """
    left = set(tensors)
    precise = _TYPES[manifest.precision]
    if manifest.encoder:
        width = manifest.encoder.dimensions
        _check_one(tensors, left, "keys", (len(manifest.members), width), _TYPES["F32"])
        _check_one(tensors, left, "centre", (width,), _TYPES["F32"])
        # In double precision: the square of a large float32 overflows.
        lengths = np.linalg.norm(tensors["keys"].astype(np.float64), axis=1)
        if manifest.encoder.head:
            _check_one(tensors, left, "head", (width, width), _TYPES["F16"])
        # A key of zeros is that of a member which similarity does not choose.
        off = np.minimum(np.abs(lengths - 1.0), lengths)
        if off.max() > _UNIT:
            raise AdapterError(f"pool: keys: row {int(np.argmax(off))} has neither length 1 nor 0")
    if manifest.kind == "shared":
        size = b_size(manifest.targets, manifest.rank)
        _check_one(tensors, left, "b", (len(manifest.members), size), precise)
        if manifest.a_seed is None:
            for target in manifest.targets:
                _check_one(tensors, left, f"a/{target.name}", (manifest.rank, target.inputs), precise)
    else:
        for k in range(len(manifest.members)):
            _check_member(manifest, tensors, left, k)
    if left:
        raise AdapterError(f"pool: the tensor {min(left)[:90]!r} is none that its manifest names")


def _check_member(manifest: Manifest, tensors: Mapping[str, NDArray[np.floating]], left: set[str], k: int) -> None:
    """Check an adapter of its own: any of the targets, at most of the member's rank."""
    member, precise = manifest.members[k], _TYPES[manifest.precision]
    found = 0
    for target in manifest.targets:
        first = tensors.get(f"a/{k}/{target.name}")
        if first is None:
            continue
        rank = first.shape[0] if first.ndim else 0
        if not 1 <= rank <= member.rank:
            raise AdapterError(f"pool: {member.name}: {target.name} has rank {rank}, the member {member.rank}")
        _check_one(tensors, left, f"a/{k}/{target.name}", (rank, target.inputs), precise)
        _check_one(tensors, left, f"b/{k}/{target.name}", (target.outputs, rank), precise)
        found = max(found, rank)
    if found != member.rank:
        raise AdapterError(f"pool: {member.name}: its widest matrix has rank {found}, the manifest says {member.rank}")


def _check_one(
    tensors: Mapping[str, NDArray[np.floating]],
    left: set[str],
    name: str,
    shape: tuple[int, ...],
    kind: np.dtype[np.floating],
) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise AdapterError(f"pool: the tensor {name!r} is missing")
    if tensor.shape != shape:
        raise AdapterError(f"pool: the tensor {name!r} has the shape {tensor.shape}, expected {shape}")
    if tensor.dtype != kind:
        raise AdapterError(f"pool: the tensor {name!r} has the type {tensor.dtype}, expected {kind}")
    if not np.isfinite(tensor).all():
        raise AdapterError(f"pool: the tensor {name!r} holds numbers that are not finite")
    left.discard(name)
