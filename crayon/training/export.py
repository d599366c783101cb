"""A GGUF model as a folder that transformers and vLLM read: its very weights, dequantized."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from crayon.errors import MissingExtraError, ModelFileError
from crayon.models.exported import RECORD
from crayon.models.split import parts_of
from crayon.training.dequantized import dequantized

if TYPE_CHECKING:
    from crayon.models.exported import Exported

Dtype: TypeAlias = Literal["bfloat16", "float16", "float32"]


def export(path: Path, folder: Path, exported: Exported, *, dtype: Dtype = "bfloat16") -> Path:
    """Write a model's configuration, weights, tokenizer and chat template; the folder appears whole or not at all.

    Args:
        path: the GGUF file.
        folder: must not exist, or be empty.
        exported: what the folder says of itself, so that pools made for the model are known to fit.
        dtype: type of the written weights.

    Returns:
        The folder.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ModelFileError: transformers cannot read the file, or something is in the folder already, or it cannot be
            written.
    """
    try:
        import accelerate  # noqa: F401 - transformers wants it for GGUF files
        import torch
        import transformers
    except ModuleNotFoundError:
        raise MissingExtraError("train", "crayon models export") from None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelFileError(f"{folder} is there already; choose another place or remove it")
    if len(parts_of(path)) > 1:
        raise ModelFileError(f"{path} is a model in several files; join them first (llama-gguf-split --merge)")
    model = dequantized(path)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path}: transformers cannot read it ({type(error).__name__}: {error})") from None
    model = model.to(getattr(torch, dtype))
    # No advice on sampling: every request says all of it.
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            (draft / RECORD).write_text(json.dumps(exported.as_json(), indent=1) + "\n", encoding="utf-8")
            draft.chmod(0o755)
            draft.replace(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise ModelFileError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return folder
