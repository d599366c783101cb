"""A GGUF file as a model of transformers: its very weights, dequantized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crayon.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path


def dequantized(path: Path) -> Any:
    """Return the model, in float32.

    Raises:
        ModuleNotFoundError: torch or transformers is not installed.
        ModelFileError: transformers cannot read the file.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=transformers.GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path}: transformers cannot read it ({type(error).__name__}: {error})") from None
