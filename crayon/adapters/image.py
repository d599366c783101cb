"""The bytes of a GGUF adapter, as llama.cpp loads them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import numpy as np

from crayon.adapters.shared_a import b_size
from crayon.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.lora import LoraTensors, Matrix
    from crayon.adapters.manifest import Target
    from crayon.adapters.pool import Pool

FloatType: TypeAlias = Literal["f32", "f16"]

# Written here instead of with the gguf package, which would be the start-up's dearest import after numpy.
_ALIGNMENT = 32
_STRING, _FLOAT = 8, 6
_TYPES: dict[str, tuple[int, np.dtype[np.floating]]] = {"f32": (0, np.dtype("<f4")), "f16": (1, np.dtype("<f2"))}


class AdapterImage:
    """The adapter of a shared pool, written once: a blend only fills in its B.

    Args:
        architecture: `general.architecture` of the base model.
        targets: in the order of the vectors that `fill` takes.
        rank: of every matrix.
        a: target to (rank, inputs).
        alpha: the change of a weight is alpha / rank * B @ A.
        b_type: how B is stored; "f16" halves the bytes and rounds.
        a_type: how A is stored.

    Raises:
        AdapterError: an A is missing or has another shape.
    """

    def __init__(
        self,
        architecture: str,
        targets: Sequence[Target],
        rank: int,
        a: Mapping[str, Matrix],
        *,
        alpha: float,
        b_type: FloatType = "f32",
        a_type: FloatType = "f32",
    ) -> None:
        self._b_size = b_size(targets, rank)
        b_kind, b_dtype = _TYPES[b_type]
        a_kind, a_dtype = _TYPES[a_type]
        body = _Body()
        for target in targets:
            matrix = a.get(target.name)
            if matrix is None or matrix.shape != (rank, target.inputs):
                shape = "missing" if matrix is None else matrix.shape
                raise AdapterError(f"{target.name}: A is {shape}, expected ({rank}, {target.inputs})")
            body.add(f"{target.name}.lora_a", a_kind, np.ascontiguousarray(matrix, a_dtype))
        blank = {target.name: np.zeros((target.outputs, rank), b_dtype) for target in targets}
        starts = [body.add(f"{target.name}.lora_b", b_kind, blank[target.name]) for target in targets]
        head = _head(architecture, alpha, body)
        self._bytes = bytearray(head + b"".join(body.parts))
        self._runs = _runs(self._bytes, b_dtype, [len(head) + start for start in starts], list(blank.values()))
        self._limit = float(np.finfo(b_dtype).max)

    @classmethod
    def of(cls, pool: Pool, *, b_type: FloatType = "f32", a_type: FloatType = "f32") -> Self:
        """Return the image of a shared pool.

        Raises:
            AdapterError: the pool is an independent one.
        """
        manifest = pool.manifest
        return cls(
            manifest.base.architecture,
            manifest.targets,
            manifest.rank,
            pool.a,
            alpha=manifest.alpha,
            b_type=b_type,
            a_type=a_type,
        )

    def __len__(self) -> int:
        """Bytes of the image."""
        return len(self._bytes)

    def fill(self, vector: Matrix) -> memoryview:
        """Return the whole adapter with this B, (N,): a read-only view that holds until the next call.

        Raises:
            AdapterError: another length, or a number that is not finite or too large for the type of B.
        """
        if vector.shape != (self._b_size,):
            raise AdapterError(f"the blended B has shape {vector.shape}, expected ({self._b_size},)")
        # Two passes without a temporary array; written so that NaN is refused too.
        if not (float(vector.max()) <= self._limit and float(vector.min()) >= -self._limit):
            raise AdapterError("the blended B holds numbers that are not finite or too large for its type")
        for start, place in self._runs:
            place[:] = vector[start : start + len(place)]
        return memoryview(self._bytes).toreadonly()


def gguf_bytes(lora: LoraTensors, architecture: str, *, b_type: FloatType = "f32", a_type: FloatType = "f32") -> bytes:
    """Return any adapter as a GGUF file; its ranks may differ.

    Raises:
        AdapterError: a number is too large for the type.
    """
    rank = lora.rank
    # llama.cpp takes an alpha of 0 for none, that is for a factor of 1: such an adapter has a B of 0 instead.
    alpha, sign = (lora.scale * rank, 1.0) if lora.scale else (float(rank), 0.0)
    body = _Body()
    for name, (a, b) in lora.tensors.items():
        # llama.cpp multiplies by alpha / rank of this matrix, and alpha is the scale times the largest rank.
        factor = np.float32(sign * a.shape[0] / rank)
        body.add(f"{name}.lora_a", _TYPES[a_type][0], _cast(name, a, a_type))
        body.add(f"{name}.lora_b", _TYPES[b_type][0], _cast(name, b if factor == 1.0 else b * factor, b_type))
    return b"".join([_head(architecture, alpha, body), *body.parts])


def _cast(name: str, matrix: Matrix, kind: FloatType) -> NDArray[np.floating]:
    dtype = _TYPES[kind][1]
    if not float(np.abs(matrix).max(initial=0.0)) <= float(np.finfo(dtype).max):
        raise AdapterError(f"{name}: holds numbers that are not finite or too large for {kind}")
    return np.ascontiguousarray(matrix, dtype)


class _Body:
    """The descriptions of the tensors, and their bytes, each padded to the alignment."""

    def __init__(self) -> None:
        self.infos: list[bytes] = []
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, name: str, kind: int, matrix: NDArray[np.floating]) -> int:
        """Append a matrix and return where it starts in the body."""
        start = self.size
        rows, columns = matrix.shape
        # GGUF names the fastest dimension first.
        self.infos.append(_text(name) + struct.pack("<IQQIQ", 2, columns, rows, kind, start))
        data = matrix.tobytes()
        data += bytes(-len(data) % _ALIGNMENT)
        self.parts.append(data)
        self.size += len(data)
        return start


def _head(architecture: str, alpha: float, body: _Body) -> bytes:
    """Return everything before the tensors' bytes, padded to the alignment."""
    pairs = [
        _text("general.type") + struct.pack("<I", _STRING) + _text("adapter"),
        _text("general.architecture") + struct.pack("<I", _STRING) + _text(architecture),
        _text("adapter.type") + struct.pack("<I", _STRING) + _text("lora"),
        _text("adapter.lora.alpha") + struct.pack("<If", _FLOAT, alpha),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(body.infos), len(pairs)) + b"".join(pairs + body.infos)
    return head + bytes(-len(head) % _ALIGNMENT)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _runs(
    image: bytearray, dtype: np.dtype[np.floating], starts: Sequence[int], blanks: Sequence[NDArray[np.floating]]
) -> list[tuple[int, NDArray[np.floating]]]:
    """Return (place in the vector, view into the image) for each stretch of B that lies in one piece.

    Matrices whose bytes are a multiple of the alignment, all of real models, leave one stretch.
    """
    stretches: list[tuple[int, int, int]] = []
    count = 0
    for start, blank in zip(starts, blanks, strict=True):
        if stretches and stretches[-1][1] + stretches[-1][2] * dtype.itemsize == start:
            first, place, length = stretches.pop()
            stretches.append((first, place, length + blank.size))
        else:
            stretches.append((count, start, blank.size))
        count += blank.size
    return [(first, np.frombuffer(image, dtype, length, place)) for first, place, length in stretches]
