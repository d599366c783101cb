"""The weights of a GGUF file as they are written there: whole numbers in groups, each with a scale and an offset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from crayon.errors import ModelFileError
from crayon.models.ggml_types import TENSOR_TYPES
from crayon.models.gguf_file import check_model, read_gguf
from crayon.models.split import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.models import GgufInfo
    from crayon.models.gguf_file import TensorInfo

Bytes: TypeAlias = "NDArray[np.uint8]"
Floats: TypeAlias = "NDArray[np.float32]"


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """A matrix of `values * scale + offset`, where each group of values in a row has its own scale and offset.

    Attributes:
        values: (rows, groups, size) int8, or uint8 where there is an offset.
        scale: (rows, groups, 1) float32, and
        offset: likewise; None where it is 0 everywhere.
        bits: that the values take: 4 to 8.
    """

    values: NDArray[np.int8] | NDArray[np.uint8]
    scale: Floats
    offset: Floats | None
    bits: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, groups, size = self.values.shape
        return rows, groups * size

    def dense(self) -> Floats:
        """Return the matrix, (rows, columns) float32."""
        whole = self.values * self.scale
        if self.offset is not None:
            whole += self.offset
        return np.asarray(whole.reshape(self.shape), np.float32)

    def rows(self, order: NDArray[np.int64]) -> Grouped:
        """Return the matrix with its rows in another order."""
        offset = None if self.offset is None else self.offset[order]
        return Grouped(self.values[order], self.scale[order], offset, self.bits)


class Weights:
    """The tensors of a model file, or of the several files it is in. What was never asked for is told by `unread`.

    Raises:
        ModelFileError: the file cannot be read, or is no model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: GgufInfo = check_model(path)
        self._places: dict[str, tuple[Bytes, TensorInfo]] = {}
        for part in parts_of(path) if self.info.parts > 1 else (path,):
            data = np.memmap(part, np.uint8, mode="r")
            self._places |= {name: (data, place) for name, place in read_gguf(part).tensors.items()}
        self._unread = set(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def unread(self) -> set[str]:
        """The tensors that nobody has asked for."""
        return set(self._unread)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, rows first.

        Raises:
            ModelFileError: it is not there.
        """
        return self._place(name)[1].shape

    def vector(self, name: str) -> Floats:
        """Return a tensor of one dimension.

        Raises:
            ModelFileError: as `matrix`.
        """
        return self.floats(name).reshape(-1)

    def floats(self, name: str) -> Floats:
        """Return a tensor as float32, of its own shape.

        Raises:
            ModelFileError: as `matrix`.
        """
        found = self.matrix(name)
        whole = found.dense() if isinstance(found, Grouped) else np.asarray(found, np.float32)
        return whole.reshape(self.shape(name))

    def matrix(self, name: str) -> Grouped | NDArray[np.floating]:
        """Return a tensor of two dimensions as it stands in the file: in groups, or as float16 or float32.

        Raises:
            ModelFileError: it is not there, or of a type that cannot be read.
        """
        data, place = self._place(name)
        self._unread.discard(name)
        raw = data[place.offset : place.offset + place.size]
        rows = place.shape[0] if len(place.shape) > 1 else 1
        if place.type in _PLAIN:
            return raw.view(_PLAIN[place.type]).reshape(rows, -1)
        if place.type == _BF16:
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(rows, -1)
        read = _READERS.get(place.type)
        if read is None:
            known = ", ".join(READABLE)
            raise ModelFileError(
                f"{self.path}: tensor {name!r} is of type {type_name(place.type)}, and the engine openvino reads "
                f"{known}: take another file of this model, or the engine llama.cpp"
            )
        return read(raw, rows)

    def _place(self, name: str) -> tuple[Bytes, TensorInfo]:
        if name not in self._places:
            raise ModelFileError(f"{self.path} lacks the tensor {name!r}")
        return self._places[name]


_PLAIN: dict[int, str] = {0: "<f4", 1: "<f2"}
_BF16 = 30


def type_name(number: int) -> str:
    """Return what ggml calls a type of tensors."""
    return TENSOR_TYPES.get(number, f"number {number}")


def _blocks(raw: Bytes, rows: int, size: int, *fields: tuple[str, str, int]) -> Any:
    """Return blocks as a record array, (rows, blocks of a row); a field is name, type, count."""
    kind = np.dtype([(name, form, (count,)) for name, form, count in fields])
    if kind.itemsize != size:
        raise ValueError(f"a block has {size} bytes, its fields {kind.itemsize}")
    return raw.view(kind).reshape(rows, -1)


def _nibbles(packed: Bytes) -> Bytes:
    """Return (..., n) bytes as (..., 2 n) numbers: all low halves, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _high_bits(packed: Bytes) -> Bytes:
    """Return 4 bytes (..., 4) as 32 bits (..., 32)."""
    return np.unpackbits(packed, axis=-1, bitorder="little")


def _grouped(values: Any, scale: Any, offset: Any, rows: int, size: int, bits: int) -> Grouped:
    shaped: Any = np.ascontiguousarray(values, np.int8 if offset is None else np.uint8).reshape(rows, -1, size)
    scales = np.asarray(scale, np.float32).reshape(rows, -1, 1)
    return Grouped(
        shaped, scales, None if offset is None else np.asarray(offset, np.float32).reshape(scales.shape), bits
    )


def _q4_0(raw: Bytes, rows: int) -> Grouped:
    block = _blocks(raw, rows, 18, ("d", "<f2", 1), ("q", "u1", 16))
    return _grouped(_nibbles(block["q"]).astype(np.int8) - np.int8(8), block["d"], None, rows, 32, 4)


def _q4_1(raw: Bytes, rows: int) -> Grouped:
    block = _blocks(raw, rows, 20, ("d", "<f2", 1), ("m", "<f2", 1), ("q", "u1", 16))
    return _grouped(_nibbles(block["q"]), block["d"], block["m"], rows, 32, 4)


def _q5_0(raw: Bytes, rows: int) -> Grouped:
    block = _blocks(raw, rows, 22, ("d", "<f2", 1), ("h", "u1", 4), ("q", "u1", 16))
    values = _nibbles(block["q"]) | _high_bits(block["h"]) << 4
    return _grouped(values.astype(np.int8) - np.int8(16), block["d"], None, rows, 32, 5)


def _q5_1(raw: Bytes, rows: int) -> Grouped:
    block = _blocks(raw, rows, 24, ("d", "<f2", 1), ("m", "<f2", 1), ("h", "u1", 4), ("q", "u1", 16))
    return _grouped(_nibbles(block["q"]) | _high_bits(block["h"]) << 4, block["d"], block["m"], rows, 32, 5)


def _q8_0(raw: Bytes, rows: int) -> Grouped:
    block = _blocks(raw, rows, 34, ("d", "<f2", 1), ("q", "i1", 32))
    return _grouped(block["q"], block["d"], None, rows, 32, 8)


def _k_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the 8 scales and the 8 minima, 6 bits each, that the 12 bytes (..., 12) hold."""
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scale = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=-1)
    minimum = np.concatenate([middle & 63, (high >> 4) | (middle >> 6) << 4], axis=-1)
    return scale, minimum


def _k_offsets(block: Any) -> tuple[Floats, Floats]:
    """Return scale and offset of each group of a super-block of Q4_K or Q5_K, (rows, blocks, 8)."""
    scale, minimum = _k_scales(block["s"])
    return block["d"].astype(np.float32) * scale, -block["m"].astype(np.float32) * minimum


def _pairs(packed: Bytes) -> Bytes:
    """Return (rows, blocks, 128) bytes as 256 numbers: of every 32 bytes the low halves, then the high ones."""
    return _nibbles(packed.reshape(*packed.shape[:-1], 4, 32))


def _q4_k(raw: Bytes, rows: int) -> Grouped:
    block = _blocks(raw, rows, 144, ("d", "<f2", 1), ("m", "<f2", 1), ("s", "u1", 12), ("q", "u1", 128))
    return _grouped(_pairs(block["q"]), *_k_offsets(block), rows, 32, 4)


def _q5_k(raw: Bytes, rows: int) -> Grouped:
    block = _blocks(
        raw, rows, 176, ("d", "<f2", 1), ("m", "<f2", 1), ("s", "u1", 12), ("h", "u1", 32), ("q", "u1", 128)
    )
    low = _pairs(block["q"]).reshape(rows, -1, 8, 32)
    high = (block["h"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return _grouped(low | high << 4, *_k_offsets(block), rows, 32, 5)


def _q6_k(raw: Bytes, rows: int) -> Grouped:
    block = _blocks(raw, rows, 210, ("l", "u1", 128), ("h", "u1", 64), ("s", "i1", 16), ("d", "<f2", 1))
    low = _nibbles(block["l"].reshape(rows, -1, 2, 64)).reshape(rows, -1, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (block["h"].reshape(rows, -1, 2, 1, 32) >> shifts) & 3
    values = (low | high << 4).astype(np.int8) - np.int8(32)
    return _grouped(values, block["d"].astype(np.float32) * block["s"], None, rows, 16, 6)


_READERS: dict[int, Callable[[Bytes, int], Grouped]] = {
    2: _q4_0, 3: _q4_1, 6: _q5_0, 7: _q5_1, 8: _q8_0, 12: _q4_k, 13: _q5_k, 14: _q6_k,
}  # fmt: skip
READABLE: tuple[str, ...] = tuple(type_name(number) for number in sorted({*_PLAIN, _BF16, *_READERS}))
