"""The numbers of adapter files that somebody else wrote, as float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import AdapterError

if TYPE_CHECKING:
    from crayon.adapters.lora import Matrix

MAX_BYTES = 2 << 30  # far above any adapter of the models here


def read_safetensors(data: bytes, where: str) -> dict[str, Matrix]:
    """Return every tensor of a safetensors file as float32, in the file's shapes.

    Raises:
        AdapterError: damaged, of another type than F32, F16 and BF16, or not finite.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]  # its stub has no types
    except SafetensorError as error:
        raise AdapterError(f"{where}: is no whole safetensors file ({error}); fetch it again") from None
    return {
        name: decode(e["data"], str(e["dtype"]), tuple(e["shape"]), f"{where}: {name[:120]!r}") for name, e in entries
    }


def decode(data: bytes | bytearray | memoryview, kind: str, shape: tuple[int, ...], where: str) -> Matrix:
    """Return little-endian numbers of the type `kind` as float32 in `shape`.

    Raises:
        AdapterError: another type than F32, F16 and BF16, or a number that is not finite.
    """
    if kind == "BF16":  # the upper half of a float32
        numbers = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in ("F32", "F16"):
        numbers = np.frombuffer(data, "<f4" if kind == "F32" else "<f2").astype(np.float32)
    else:
        raise AdapterError(f"{where} is of type {kind}; F32, F16 and BF16 can be read")
    if not np.isfinite(numbers).all():
        raise AdapterError(f"{where} holds numbers that are not finite: the training that made it failed")
    return numbers.reshape(shape)
