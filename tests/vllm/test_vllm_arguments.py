"""What is passed to vLLM, by vLLM's own reading of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from vllm_tools import QUICK

from crayon.errors import ConfigError
from crayon.server.engines.vllm.arguments import Shape, check_names, engine_arguments, engine_config

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.vllm


def read(folder: Path, **shape: Any) -> Any:
    """Return vLLM's `AsyncEngineArgs` of a shape."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return AsyncEngineArgs(**engine_arguments(Shape(folder=folder, **shape), 512))


def test_parts_of_the_work_are_passed_through(folder: Path) -> None:
    found = read(folder, tensor_parallel=4, pipeline_parallel=2, data_parallel=3, enable_dbo=True)
    sizes = (found.tensor_parallel_size, found.pipeline_parallel_size, found.data_parallel_size)
    assert sizes == (4, 2, 3)
    assert found.enable_dbo


def test_many_machines_are_passed_through(folder: Path) -> None:
    native = read(
        folder, tensor_parallel=8, pipeline_parallel=2, more={"nnodes": 2, "node_rank": 0, "master_addr": "h"}
    )
    assert (native.nnodes, native.node_rank, native.master_addr) == (2, 0, "h")
    ray = read(folder, tensor_parallel=16, more={"distributed_executor_backend": "ray"})
    assert ray.distributed_executor_backend == "ray"


def test_constraints_have_one_backend(folder: Path) -> None:
    assert read(folder).structured_outputs_config.backend == "guidance"


def test_sizes_are_ours_unless_vllms_name_is_given(folder: Path) -> None:
    found = read(folder, context_tokens=4096, slots=5, batch=64, lora_rank=8)
    assert (found.max_model_len, found.max_num_seqs, found.max_num_batched_tokens) == (512, 5, 64)
    assert (found.enable_lora, found.max_lora_rank, found.max_loras) == (True, 8, 5)
    found = read(folder, slots=5, more={"max_num_seqs": 7, "max_model_len": 300})
    assert (found.max_num_seqs, found.max_model_len) == (7, 300)
    assert not read(folder).enable_lora


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"gpu_memory_utilisation": 0.5}, "gpu_memory_utilization"),
        ({"xyzzy": 1}, "vllm serve --help"),
        ({"model": "other"}, "--model"),
        ({"scheduler_cls": "x.Y"}, "--vllm-scheduler"),
        ({"enable_lora": True}, "--pool"),
        ({"structured_outputs_config": {"backend": "xgrammar"}}, "constraints mean the same"),
    ],
)
def test_arguments_are_checked_by_name(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_names(more)


def test_what_vllm_refuses_is_said_in_its_words(folder: Path) -> None:
    with pytest.raises(ConfigError, match="vLLM refuses"):
        engine_config(Shape(folder=folder, more={**QUICK, "max_model_len": 100_000}), 512)


def test_overlap_is_vllms_to_refuse(folder: Path) -> None:
    """On a CPU it switches it off; nothing of ours claims otherwise."""
    from vllm.platforms import current_platform

    found = engine_config(Shape(folder=folder, enable_dbo=True, more=dict(QUICK)), 512)
    assert found.parallel_config.enable_dbo == (not current_platform.is_cpu())


def test_speculative_decoding_goes_without_our_chain(folder: Path) -> None:
    more = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}
    assert engine_arguments(Shape(folder=folder), None)["logits_processors"]
    assert "logits_processors" not in engine_arguments(Shape(folder=folder, more=more), None)
