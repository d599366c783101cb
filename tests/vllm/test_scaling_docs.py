"""Every set of flags in docs/how-to/scaling.md and deploy/scaling, by vLLM's own reading of it."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from scaling_tools import TEXT, deployed, documented, serve_settings

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.config import ServeSettings

pytestmark = pytest.mark.vllm


def rendered(settings: ServeSettings, folder: Path) -> Any:
    """Return vLLM's `AsyncEngineArgs` of what `crayon serve` would run with, on a model that is there."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    from crayon.cli.serve.vllm import further_arguments
    from crayon.server.engines.vllm.arguments import SLOTS, Shape, engine_arguments

    stock = settings.vllm_scheduler == "stock"
    shape = Shape(
        folder=folder,
        context_tokens=settings.ctx,
        slots=SLOTS if settings.slots is None else settings.slots,
        batch=settings.batch,
        tensor_parallel=settings.tensor_parallel,
        pipeline_parallel=settings.pipeline_parallel,
        data_parallel=settings.data_parallel,
        enable_dbo=settings.enable_dbo,
        nano=None if stock else "mean",
        more=further_arguments(settings.vllm),
    )
    return AsyncEngineArgs(**engine_arguments(shape, None))


@pytest.mark.parametrize("words", [*documented().values(), *deployed().values()], ids=lambda words: " ".join(words[:6]))
def test_vllm_reads_them(words: list[str], folder: Path) -> None:
    settings = serve_settings(words)
    found = rendered(settings, folder)
    sizes = (found.tensor_parallel_size, found.pipeline_parallel_size, found.data_parallel_size)
    wanted = (settings.tensor_parallel, settings.pipeline_parallel, settings.data_parallel)
    assert sizes == tuple(size or 1 for size in wanted)
    assert found.max_model_len == settings.ctx
    for text in settings.vllm:
        name, _, value = text.partition("=")
        assert str(getattr(found, name)) == value


def test_the_second_nodes_command_is_vllms_and_has_the_first_ones_settings(folder: Path) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    (line,) = re.findall(r"^vllm serve .*$", TEXT, re.MULTILINE)
    _, _, model, headless, *words = shlex.split(line)
    (first,) = [each for each in documented().values() if "nnodes=2" in each]
    assert first[first.index("--model") + 1] == model
    assert headless == "--headless"
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    second = AsyncEngineArgs.from_cli_args(parser.parse_args(["--model", model, *words]))
    leader = rendered(serve_settings(first), folder)
    for name in ("max_model_len", "max_num_seqs", "tensor_parallel_size", "pipeline_parallel_size", "nnodes"):
        assert getattr(second, name) == getattr(leader, name), name
    assert second.master_addr == leader.master_addr
    assert (leader.node_rank, second.node_rank) == (0, 1)
