"""Two copies of the model as processes of this machine's CPU, and two halves of one, which vLLM refuses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from vllm_tools import engine_on

from crayon.engine import Delta, GenerateRequest
from crayon.errors import EngineError
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from crayon.server.engines.vllm.engine import VllmEngine

pytestmark = pytest.mark.vllm


def said(engine: Any, text: str) -> str:
    request = GenerateRequest(messages=(Message("user", text),), sampling=Sampling(max_tokens=16))
    return "".join(event.text for event in engine.generate(request) if isinstance(event, Delta))


def test_two_processes_answer_as_one(folder: Path, engine: VllmEngine) -> None:
    texts = ["Tell me", "Say it", "And now", "Once more"]
    alone = [said(engine, text) for text in texts]
    with engine_on(folder, data_parallel=2) as two:
        assert [said(two, text) for text in texts] == alone


@pytest.mark.skipif(len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) > 1, reason="several NUMA nodes")
def test_vllm_refuses_a_pipeline_on_one_numa_node(folder: Path) -> None:
    """vLLM refuses on CPUs (docs/reference/engines.md); told to take one node for two, its processes die."""
    with pytest.raises(EngineError, match="vLLM does not start"), engine_on(folder, pipeline_parallel=2):
        pass
