"""The small random chat model as a folder for vLLM, and engines on it that start quickly."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import serving_tools
import tiny_chat

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.server.engines.vllm.engine import VllmEngine

# Before torch is imported, here and in vLLM's processes: compiling small functions takes longer than all tests.
os.environ["TORCH_COMPILE_DISABLE"] = "1"
# A machine that is shared may stop for minutes, which is no death of vLLM's.
os.environ["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = "3600"
os.environ["VLLM_ENGINE_READY_TIMEOUT_S"] = "3600"
serving_tools.PATIENCE = 600.0  # vLLM itself takes half a minute to start on an idle machine
# Heads as wide as vLLM's attention on CPUs needs, and no merge of what is no token, which transformers refuses.
HEADS = 2
PAIRS = tuple(pair for pair in tiny_chat.PAIRS if pair != "Ġt he")
# Float32, as llama.cpp computes the same file, and no compilation, which takes longer than these tests.
QUICK = {"enforce_eager": True, "dtype": "float32", "kv_cache_memory_bytes": 1 << 27}


def tiny_file(folder: Path) -> Path:
    """Write the model for llama.cpp."""
    return tiny_chat.write_model(folder / "tiny.gguf", heads=HEADS, pairs=PAIRS)


def tiny_folder(gguf: Path, folder: Path) -> Path:
    """Write the same model for vLLM."""
    from crayon.models.exported import Exported
    from crayon.training.export import export

    sha256 = hashlib.sha256(gguf.read_bytes()).hexdigest()
    return export(gguf, folder, Exported("tiny-chat", sha256, "F32"), dtype="float32")


def engine_on(folder: Path, **more: Any) -> VllmEngine:
    """Start vLLM on the small model."""
    from crayon.models.exported import read_exported
    from crayon.server.engines.vllm.engine import VllmEngine

    exported = read_exported(folder)
    assert exported is not None
    settings = {"name": "it", "context_tokens": 512, "slots": 16, "source_sha256": exported.source_sha256, **more}
    return VllmEngine(folder, **{**settings, "more": {**QUICK, **settings.get("more", {})}})
