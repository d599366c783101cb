"""`crayon models export`: a model as a folder for transformers and vLLM."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from crayon.cli.shared import console, options
from crayon.cli.shared.pull_progress import pull_progress


class _Dtype(StrEnum):
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


_Reference = Annotated[str, typer.Argument(metavar="MODEL", help="Which model; it is fetched if absent.")]
_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; it must not exist, or be empty.")]


def export(
    reference: _Reference,
    folder: _Folder,
    *,
    dtype: Annotated[_Dtype, typer.Option(help="Type of the written weights.")] = _Dtype.BFLOAT16,
) -> None:
    """Write a model as a folder that transformers and vLLM read, its very weights dequantized.

    `crayon serve --engine vllm --model FOLDER` serves it, and pools that were made for the model fit. Needs torch and
    transformers (the extra `train`). Example: crayon models export smollm2-135m-instruct ./smollm2
    """
    from crayon.models import read_gguf, resolve
    from crayon.models.exported import Exported
    from crayon.models.prepared import origin
    from crayon.training.export import export as export_file

    with pull_progress(reference) as progress:
        local = resolve(reference, progress=progress, models_dir=options.load_settings({}).models_dir)
    info = read_gguf(local.path)
    source_sha256, quantization = origin({key: str(value) for key, value in info.metadata.items()}, local.sha256)
    exported = Exported(local.name, source_sha256, quantization or info.file_type or "")
    made = export_file(local.path, folder, exported, dtype=dtype.value)
    console.message(f"{local.name} is in {made}; serve it: crayon serve --engine vllm --model {made}", "green")
