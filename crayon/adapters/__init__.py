"""Pools of adapters: their files, blending, and the bytes that llama.cpp loads. Knows no engine."""

from __future__ import annotations

from crayon.adapters.blend import blend, blend_vector, check_weights, truncate
from crayon.adapters.find import find_pool, pool_names, user_pools_dir
from crayon.adapters.gate import Gate, similarities
from crayon.adapters.gate import weights as gate_weights
from crayon.adapters.image import AdapterImage, gguf_bytes
from crayon.adapters.lora import LoraTensors
from crayon.adapters.manifest import BaseModel, EncoderRecord, Manifest, Member, Rejected, Score, Target
from crayon.adapters.memory_file import MemoryFile
from crayon.adapters.pool import Pool, read_manifest

__all__ = [
    "AdapterImage",
    "BaseModel",
    "EncoderRecord",
    "Gate",
    "LoraTensors",
    "Manifest",
    "Member",
    "MemoryFile",
    "Pool",
    "Rejected",
    "Score",
    "Target",
    "blend",
    "blend_vector",
    "check_weights",
    "find_pool",
    "gate_weights",
    "gguf_bytes",
    "pool_names",
    "read_manifest",
    "similarities",
    "truncate",
    "user_pools_dir",
]
