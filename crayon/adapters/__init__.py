"""Pools of adapters: their files, blending, and the bytes that llama.cpp loads. Knows no engine."""

from __future__ import annotations

from crayon.adapters.gate import Gate, similarities
from crayon.adapters.gate import weights as gate_weights
from crayon.adapters.lora import LoraTensors
from crayon.adapters.manifest import BaseModel, Encoder, Manifest, Member, Rejected, Score, Target
from crayon.adapters.pool import Pool, read_manifest

__all__ = [
    "BaseModel",
    "Encoder",
    "Gate",
    "LoraTensors",
    "Manifest",
    "Member",
    "Pool",
    "Rejected",
    "Score",
    "Target",
    "gate_weights",
    "read_manifest",
    "similarities",
]
