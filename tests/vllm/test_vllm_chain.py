"""llama.cpp's sampler chain in torch, held against llama.cpp's own."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

VOCABULARY = 50


def by_llama_cpp(logits: list[float], seen: list[int], wanted: dict[str, float]) -> dict[int, float]:
    """Return the tokens that llama.cpp's chain keeps, with their logits."""
    import llama_cpp

    data = (llama_cpp.llama_token_data * len(logits))(*[(i, value, 0.0) for i, value in enumerate(logits)])
    array = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    penalties = [wanted.get(name, off) for name, off in (("repeat_penalty", 1.0), ("frequency_penalty", 0.0))]
    stages: list[Any] = [
        llama_cpp.llama_sampler_init_penalties(VOCABULARY, 64, *penalties, wanted.get("presence_penalty", 0.0))
    ]
    if "top_k" in wanted:
        stages.append(llama_cpp.llama_sampler_init_top_k(int(wanted["top_k"])))
    if "top_p" in wanted:
        stages.append(llama_cpp.llama_sampler_init_top_p(wanted["top_p"], 1))
    if "min_p" in wanted:
        stages.append(llama_cpp.llama_sampler_init_min_p(wanted["min_p"], 1))
    for stage in stages:
        llama_cpp.llama_sampler_chain_add(chain, stage)
    for token in seen:
        llama_cpp.llama_sampler_accept(chain, token)
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
    found = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    llama_cpp.llama_sampler_free(chain)
    return found


CASES = (
    {"top_k": 5},
    {"top_k": 500},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 10, "top_p": 0.7, "min_p": 0.1},
    {"repeat_penalty": 1.3},
    {"repeat_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": -0.7, "top_p": 0.8},
)


@pytest.mark.parametrize("wanted", CASES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_chain_keeps_what_llama_cpp_keeps(wanted: dict[str, float], seed: int) -> None:
    import torch

    from crayon.llama.sampler import PENALTY_WINDOW
    from crayon.server.engines.vllm.logits_processor import WINDOW, apply

    assert WINDOW == PENALTY_WINDOW
    made = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(VOCABULARY, generator=made)
    prompt = torch.randint(VOCABULARY, (50,), generator=made).tolist()
    answer = torch.randint(VOCABULARY, (30,), generator=made).tolist()
    before = logits.clone()
    found = apply(wanted, prompt, answer, logits)
    assert torch.equal(logits, before)  # vLLM's own tensor
    kept = {i: float(value) for i, value in enumerate(found) if value > -torch.inf}
    expected = by_llama_cpp(logits.tolist(), (prompt + answer)[-64:], wanted)
    assert set(kept) == set(expected)
    assert all(kept[token] == pytest.approx(expected[token], abs=1e-4) for token in kept)
