"""Requantizing a model file with llama.cpp's own quantizer."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from crayon.errors import ModelFileError
from crayon.llama import library
from crayon.llama.fresh_thread import run_in_fresh_thread
from crayon.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# llama.cpp's file types (enum llama_ftype), by the names that users know.
FILE_TYPES: dict[str, int] = {
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}


def quantize(source: Path, target: Path, file_type: str, metadata: Mapping[str, str]) -> None:
    """Write `source` to `target` in another quantization, with extra text metadata (keys and values under 128 bytes).

    Raises:
        ModelFileError: the source cannot be read or the target cannot be written.
        ValueError: an unknown file type, or metadata that is too long.
    """
    if file_type not in FILE_TYPES:
        raise ValueError(f"file type {file_type!r} is not one of {', '.join(FILE_TYPES)}")
    lib = library.load()
    api = lib.api
    overrides = (api.llama_model_kv_override * (len(metadata) + 1))()  # ends with an empty key
    for override, (key, value) in zip(overrides, metadata.items(), strict=False):
        if max(len(key.encode()), len(value.encode())) > 127:
            raise ValueError(f"metadata {key!r} is too long")
        override.tag = api.LLAMA_KV_OVERRIDE_TYPE_STR
        override.key = key.encode()
        override.value.val_str = value.encode()
    params = api.llama_model_quantize_default_params()
    params.nthread = usable_cores()
    params.ftype = FILE_TYPES[file_type]
    params.allow_requantize = True
    params.kv_overrides = ctypes.cast(overrides, ctypes.POINTER(api.llama_model_kv_override))
    lib.log.take_errors()
    code = run_in_fresh_thread(
        lambda: int(api.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)))
    )
    if code != 0:
        why = lib.log.take_errors() or "llama.cpp gives no reason, most often a full disk"
        raise ModelFileError(f"{source.name} cannot be requantized to {file_type}: {why}")
