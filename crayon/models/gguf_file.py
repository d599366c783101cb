"""The header of a GGUF file, read with suspicion: who wrote the file is unknown."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from crayon.errors import ModelFileError
from crayon.models.ggml_types import BLOCKS, FILE_TYPES
from crayon.models.hyperparameters import check_sizes
from crayon.models.split import whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Scalar: TypeAlias = str | int | float | bool

MAX_KEYS = 10_000
MAX_TENSORS = 100_000
MAX_HEADER = 256 << 20
MAX_STRING = 16 << 20
_KEPT_STRING = 256 << 10
_CHUNK = 4 << 20

_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's place: `shape` in numpy's order (rows first), ggml's type number, first byte in the file, bytes."""

    shape: tuple[int, ...]
    type: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """What the header says. `metadata` holds the scalars and texts, not the arrays; `parameters` counts weights.

    Of a model in several files (`parts`), `size`, `tensor_count`, `parameters` and `tensors` are those of all; a
    tensor's offset is one in its own file.
    """

    version: int
    size: int
    tensor_count: int
    parameters: int
    metadata: Mapping[str, Scalar]
    arrays: frozenset[str] = frozenset()
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict, repr=False)
    parts: int = 1

    @property
    def kind(self) -> str:
        """`model`, `adapter` or another value of `general.type`."""
        return self._text("general.type") or "model"

    @property
    def architecture(self) -> str:
        """For example `llama` or `qwen2`."""
        return self._text("general.architecture") or "unknown"

    @property
    def name(self) -> str | None:
        """The name the file's maker gave it."""
        return self._text("general.name")

    @property
    def context_length(self) -> int | None:
        """Tokens the model was made for."""
        return self._integer(f"{self.architecture}.context_length")

    @property
    def block_count(self) -> int | None:
        """Layers."""
        return self._integer(f"{self.architecture}.block_count")

    @property
    def embedding_length(self) -> int | None:
        """Width of the residual stream."""
        return self._integer(f"{self.architecture}.embedding_length")

    @property
    def file_type(self) -> str | None:
        """The quantization, for example `Q4_K_M`."""
        value = self._integer("general.file_type")
        return None if value is None else FILE_TYPES.get(value, f"type {value}")

    @property
    def has_chat_template(self) -> bool:
        """Whether the file says how a conversation is written."""
        return "tokenizer.chat_template" in self.metadata

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _integer(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) else None


def read_gguf(path: Path) -> GgufInfo:
    """Return what the header of `path` says, having checked that every tensor's bytes lie inside the file.

    Raises:
        ModelFileError: not a readable GGUF of version 2 or 3, or shorter than its own header says (truncated).
    """
    try:
        with path.open("rb") as file:
            return _Header(file, path).read()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from None


def check_model(path: Path) -> GgufInfo:
    """Return the header of a model file; of all its parts where it is the first of several.

    Raises:
        ModelFileError: as `read_gguf`, or the file is an adapter, or holds no weights, or parts of it are missing, or
            its sizes are such that llama.cpp would end the process.
    """
    info = whole(path, read_gguf(path), read_gguf)
    if info.kind != "model":
        raise ModelFileError(f"{path} is a GGUF of type {info.kind!r}, not a model")
    if info.tensor_count == 0:
        raise ModelFileError(f"{path} holds a vocabulary only, no weights")
    check_sizes(path, info)
    return info


class _Header:
    """A cursor over the start of the file, which is read in steps, never the weights."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.size = file.seek(0, 2)
        file.seek(0)
        self.buffer = bytearray()
        self.position = 0

    def read(self) -> GgufInfo:
        if self.size == 0:
            raise ModelFileError(f"{self.path} is empty")
        if self.size < 24 or self._take(4) != b"GGUF":
            raise ModelFileError(f"{self.path} is not a GGUF file")
        version = int(self._scalar(_U32))
        if version not in (2, 3):
            swapped = struct.unpack(">I", struct.pack("<I", version))[0]
            why = "big-endian" if swapped in (2, 3) else f"GGUF version {version}"
            raise ModelFileError(f"{self.path} is {why}; versions 2 and 3 in little-endian order can be read")
        tensors, keys = self._count("tensors", MAX_TENSORS), self._count("metadata keys", MAX_KEYS)
        metadata: dict[str, Scalar] = {}
        arrays: set[str] = set()
        for _ in range(keys):
            self._pair(metadata, arrays)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self._damaged(f"general.alignment is {alignment!r}")
        found: dict[str, TensorInfo] = {}
        for _ in range(tensors):
            name, info = self._tensor(alignment)
            if name in found:
                raise self._damaged(f"it names the tensor {name!r} twice")
            found[name] = info
        start = self.position + -self.position % alignment
        needed = start + max(info.offset + info.size for info in found.values()) if found else self.position
        if needed > self.size:
            raise self._truncated(needed)
        places = {name: replace(info, offset=start + info.offset) for name, info in found.items()}
        parameters = sum(math.prod(info.shape) for info in found.values())
        return GgufInfo(version, self.size, tensors, parameters, metadata, frozenset(arrays), places)

    def _pair(self, metadata: dict[str, Scalar], arrays: set[str]) -> None:
        key = self._string("a metadata key").decode("utf-8", "replace")
        kind = int(self._scalar(_U32))
        if kind == _ARRAY:
            self._skip_array(key)
            arrays.add(key)
        elif kind == _STRING:
            text = self._string(key)
            if len(text) <= _KEPT_STRING:
                metadata[key] = text.decode("utf-8", "replace")
        elif kind in _SCALARS:
            metadata[key] = self._scalar(_SCALARS[kind])
        else:
            raise self._damaged(f"{key!r} has the unknown value type {kind}")

    def _skip_array(self, key: str) -> None:
        kind, count = int(self._scalar(_U32)), int(self._scalar(_U64))
        if kind in _SCALARS:
            self._skip(count * _SCALARS[kind].size)
        elif kind == _STRING:
            if count * _U64.size > self.size:
                raise self._truncated(self.position + count * _U64.size)
            # Vocabularies have hundreds of thousands of entries: this loop is the cost of the whole check.
            unpack = _U64.unpack_from
            for _ in range(count):
                if self.position + 8 > len(self.buffer):
                    self._need(8)
                (length,) = unpack(self.buffer, self.position)
                if length > MAX_STRING:
                    raise self._damaged(f"a text in {key!r} claims {length:,} bytes")
                self.position += 8 + length
            self._need(0)
        else:
            raise self._damaged(f"{key!r} is an array of the unknown type {kind}")

    def _tensor(self, alignment: int) -> tuple[str, TensorInfo]:
        name = self._string("a tensor's name").decode("utf-8", "replace")
        dimensions = int(self._scalar(_U32))
        if not 1 <= dimensions <= 4:
            raise self._damaged(f"tensor {name!r} has {dimensions} dimensions")
        shape = [int(self._scalar(_U64)) for _ in range(dimensions)]
        kind, offset = int(self._scalar(_U32)), int(self._scalar(_U64))
        if kind not in BLOCKS:
            raise ModelFileError(
                f"{self.path}: tensor {name!r} has the unknown type {kind}; the file needs a newer Crayon"
            )
        weights, size = BLOCKS[kind]
        if shape[0] % weights or offset % alignment:
            raise self._damaged(f"tensor {name!r} has a shape or place that its type does not allow")
        return name, TensorInfo(tuple(reversed(shape)), kind, offset, math.prod(shape) // weights * size)

    def _count(self, what: str, most: int) -> int:
        count = int(self._scalar(_U64))
        if count > most:
            raise self._damaged(f"it claims {count:,} {what}, at most {most:,} are read")
        return count

    def _scalar(self, form: struct.Struct) -> int | float | bool:
        value: int | float | bool = form.unpack(self._take(form.size))[0]
        return value

    def _string(self, what: str) -> bytearray:
        length = int(self._scalar(_U64))
        if length > MAX_STRING:
            raise self._damaged(f"{what!r} claims {length:,} bytes")
        return self._take(length)

    def _take(self, count: int) -> bytearray:
        self._need(count)
        start, self.position = self.position, self.position + count
        return self.buffer[start : self.position]

    def _skip(self, count: int) -> None:
        self.position += count
        self._need(0)

    def _need(self, count: int) -> None:
        """Have the buffer reach `count` bytes past the cursor."""
        end = self.position + count
        if end <= len(self.buffer):
            return
        if end > self.size:
            raise self._truncated(end)
        if end > MAX_HEADER:
            raise self._damaged(f"its header is longer than {MAX_HEADER >> 20} MiB")
        self.buffer += self.file.read(max(end - len(self.buffer), _CHUNK))
        if end > len(self.buffer):
            raise self._truncated(end)

    def _truncated(self, needed: int) -> ModelFileError:
        return ModelFileError(
            f"{self.path} is truncated: it has {self.size:,} bytes and its header asks for at least {needed:,}; "
            "fetch it again"
        )

    def _damaged(self, why: str) -> ModelFileError:
        return ModelFileError(f"{self.path} is a damaged GGUF: {why}")
