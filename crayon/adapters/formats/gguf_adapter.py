"""LoRA adapters as llama.cpp keeps them: GGUF files of the type `adapter`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.folder import refuse_pickle, write_folder
from crayon.adapters.formats.matrices import module_name
from crayon.adapters.formats.numbers import MAX_BYTES, decode
from crayon.adapters.image import gguf_bytes
from crayon.adapters.lora import LoraTensors
from crayon.adapters.manifest import MAX_RANK
from crayon.errors import AdapterError, AdapterMismatchError, ModelFileError
from crayon.models.gguf_file import read_gguf

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.adapters.formats.matrices import BaseShapes
    from crayon.adapters.image import FloatType
    from crayon.adapters.lora import Matrix
    from crayon.models.gguf_file import GgufInfo

_TYPES = {0: "F32", 1: "F16", 30: "BF16"}
_ALORA = "adapter.alora.invocation_tokens"


def read_gguf_adapter(path: Path, base: BaseShapes) -> LoraTensors:
    """Return the adapter in a GGUF file, which computes what llama.cpp would with that file.

    Raises:
        AdapterError: unreadable, damaged, not a LoRA adapter, or one that llama.cpp would use otherwise; names it.
        AdapterMismatchError: made for another architecture or base.
    """
    info = _header(path)
    if info.size > MAX_BYTES:
        raise AdapterError(f"{path} has {info.size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        _check(info, base)
        return _assemble(_read(path, info), info.metadata.get("adapter.lora.alpha", 0.0), base)
    except AdapterError as error:
        raise type(error)(f"{path}: {error}") from None  # the kind stays: a mismatch is a mismatch


def write_gguf_adapter(lora: LoraTensors, path: Path, architecture: str, *, kind: FloatType = "f32") -> None:
    """Write an adapter as a GGUF file for llama.cpp; the file appears whole or not at all.

    Raises:
        AdapterError: something is there already, a number is too large for `kind`, or the disk is full.
    """
    if path.exists():
        raise AdapterError(f"{path} is there already; choose another place or remove it")
    write_folder(path.parent, {path.name: gguf_bytes(lora, architecture, b_type=kind, a_type=kind)})


def gguf_base(path: Path) -> str:
    """Return the name that the file gives its base, "" where it gives none.

    Raises:
        AdapterError: not readable.
    """
    return str(_header(path).metadata.get("general.base_model.0.name", ""))


def _header(path: Path) -> GgufInfo:
    refuse_pickle(path)
    if not path.is_file():
        raise AdapterError(f"{path}: no such file")
    try:
        return read_gguf(path)
    except ModelFileError as error:
        raise AdapterError(str(error)) from None


def _check(info: GgufInfo, base: BaseShapes) -> None:
    if info.kind != "adapter":
        raise AdapterError(f"it is a GGUF of the type {info.kind!r}, not an adapter")
    if (kind := info.metadata.get("adapter.type")) != "lora":
        raise AdapterError(f"adapter.type is {kind!r}; only 'lora' can be read")
    if _ALORA in info.arrays or _ALORA in info.metadata:
        raise AdapterError(f"it has {_ALORA}: it acts only after certain words, which blends cannot")
    if info.architecture != base.architecture:
        raise AdapterMismatchError(
            f"it is for the architecture {info.architecture!r}; {base.label} is {base.architecture!r}"
        )


def _read(path: Path, info: GgufInfo) -> dict[str, dict[str, Matrix]]:
    """Return A and B of each target."""
    pairs: dict[str, dict[str, Matrix]] = {}
    try:
        with path.open("rb") as file:
            for name, tensor in info.tensors.items():
                target, _, part = name.rpartition(".")
                if part not in ("lora_a", "lora_b"):
                    raise AdapterError(f"the tensor {name[:120]!r} is neither A nor B of a LoRA")
                if module_name(target) is None:
                    raise AdapterError(
                        f"it changes {target[:120]!r}; only the seven linear matrices of a layer can be changed"
                    )
                if tensor.type not in _TYPES:
                    raise AdapterError(f"{name} is of ggml's type {tensor.type}; F32, F16 and BF16 can be read")
                file.seek(tensor.offset)
                data = file.read(tensor.size)
                if len(data) != tensor.size:
                    raise AdapterError("the file became shorter while it was read")
                pairs.setdefault(target, {})[part] = decode(data, _TYPES[tensor.type], tensor.shape, name)
    except OSError as error:
        raise AdapterError(f"cannot be read ({error.strerror or error})") from None
    return pairs


def _assemble(pairs: dict[str, dict[str, Matrix]], alpha: object, base: BaseShapes) -> LoraTensors:
    if not isinstance(alpha, int | float) or not abs(alpha) <= 1e6:
        raise AdapterError(f"adapter.lora.alpha is {alpha!r}; it must be a number of at most 1,000,000")
    ranks: dict[str, int] = {}
    for target, pair in pairs.items():
        if len(pair) != 2:
            raise AdapterError(f"{target} has only its {next(iter(pair))}: the file is not whole")
        rank = ranks[target] = base.check(target, pair["lora_a"].shape, pair["lora_b"].shape)
        if rank > MAX_RANK:
            raise AdapterError(f"{target} has rank {rank}; at most {MAX_RANK} can be read")
    if not ranks:
        raise AdapterError("the file holds no tensor, so the adapter changes nothing")
    ordered = [target for target in base.targets if target in ranks]
    # Without alpha llama.cpp takes B @ A as it is; with it, alpha over each matrix's own rank.
    widest = max(ranks.values())
    tensors = {}
    for target in ordered:
        factor = np.float32(widest / ranks[target] if alpha else 1.0)
        tensors[target] = pairs[target]["lora_a"], pairs[target]["lora_b"] * factor
    return LoraTensors(tensors, alpha / widest if alpha else 1.0)
