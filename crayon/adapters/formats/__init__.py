"""Adapters of other makers: PEFT folders and GGUF files in, blends out."""

from __future__ import annotations

from crayon.adapters.formats.gguf_adapter import read_gguf_adapter, write_gguf_adapter
from crayon.adapters.formats.imported import claimed_base, member_name, pool_from_adapters, read_adapter, read_base
from crayon.adapters.formats.matrices import BaseShapes, module_name, target_name
from crayon.adapters.formats.peft_folder import read_peft, write_peft

__all__ = [
    "BaseShapes",
    "claimed_base",
    "member_name",
    "module_name",
    "pool_from_adapters",
    "read_adapter",
    "read_base",
    "read_gguf_adapter",
    "read_peft",
    "target_name",
    "write_gguf_adapter",
    "write_peft",
]
