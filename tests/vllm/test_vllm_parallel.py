"""Two copies of the model, and two halves of one, as processes of this machine's CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from vllm_tools import engine_on

from crayon.engine import Delta, GenerateRequest
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.server.engines.vllm import VllmEngine

pytestmark = pytest.mark.vllm


def said(engine: Any, text: str) -> str:
    request = GenerateRequest(messages=(Message("user", text),), sampling=Sampling(max_tokens=16))
    return "".join(event.text for event in engine.generate(request) if isinstance(event, Delta))


@pytest.mark.parametrize("parts", [{"data_parallel": 2}, {"pipeline_parallel": 2}], ids=str)
def test_two_processes_answer_as_one(
    folder: Path, engine: VllmEngine, parts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without it vLLM wants a NUMA node for each half of a pipeline.
    monkeypatch.setenv("VLLM_CPU_SIM_MULTI_NUMA", "1")
    texts = ["Tell me", "Say it", "And now", "Once more"]
    alone = [said(engine, text) for text in texts]
    with engine_on(folder, **parts) as two:
        assert [said(two, text) for text in texts] == alone
