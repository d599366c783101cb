"""`crayon models capacity`: how many requests a model leaves room for on devices of a size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import Annotated

import typer

from crayon.cli.shared import options  # noqa: TC001 - as above

GIB = 2**30


def capacity(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model as transformers writes it.")],
    *,
    memory: Annotated[float, typer.Option("--memory-gib", min=0.1, metavar="GIB", help="Memory of each device.")],
    request_tokens: Annotated[
        int, typer.Option("--request-tokens", min=1, metavar="N", help="Prompt and answer of one request, together.")
    ] = 2048,
    tensor_parallel: Annotated[
        int, typer.Option("--tensor-parallel", min=1, metavar="N", help="Devices that each layer is divided among.")
    ] = 1,
    pipeline_parallel: Annotated[
        int, typer.Option("--pipeline-parallel", min=1, metavar="N", help="Stages that the layers are divided into.")
    ] = 1,
    share: Annotated[
        float, typer.Option("--share", min=0.01, max=1.0, metavar="SHARE", help="Of each device that vLLM takes.")
    ] = 0.9,
    kv_type: Annotated[
        str | None, typer.Option("--kv-type", metavar="TYPE", help="The cache's type, such as fp8; else the model's.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Tell how many requests fit beside a model's weights, on GPUs of a size.

    An upper bound: vLLM's log says how many tokens there were really room
    for, after its own needs. docs/how-to/scaling.md shows the arithmetic.
    Example: crayon models capacity ./qwen3-8b --memory-gib 80 --request-tokens 2000
    """
    from crayon.models.capacity import capacity as fit
    from crayon.models.capacity import read_sizes

    sizes = read_sizes(folder, kv_type)
    found = fit(
        sizes,
        device_bytes=memory * GIB,
        request_tokens=request_tokens,
        share=share,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
    )
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    devices = tensor_parallel * pipeline_parallel
    print(f"devices            {devices} of {memory:g} GiB")
    print(f"weights            {found.weight_bytes / GIB:.2f} GiB on each")
    print(f"cache of a token   {found.kv_bytes_per_token / 1024:g} KiB on each")
    print(f"tokens             {found.tokens:,}")
    print(f"requests           {found.requests:,} of {request_tokens:,} tokens")
