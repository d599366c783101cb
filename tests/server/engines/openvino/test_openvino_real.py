"""Real models on OpenVINO against llama.cpp on the same files, and the shipped pool by gates against its blends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvino_tools import Compiled, Part, divergence, llama_logits

from crayon.adapters import Pool, blend, find_pool, gguf_bytes
from crayon.llama.model import Model
from crayon.models import resolve

pytest.importorskip("openvino")

from crayon.server.engines.openvino.gates import Slots
from crayon.server.engines.openvino.graph import build_model

pytestmark = pytest.mark.models
README = Path(__file__).parents[4] / "README.md"
TOKENS = 160
BLOCKS = list(range(5))


def text(path: Path) -> list[int]:
    with Model(path, vocab_only=True) as model:
        return list(model.tokenize(README.read_text("utf-8"))[:TOKENS])


@pytest.mark.parametrize("form", ["f16", "int8", "int4"])
def test_the_small_model_answers_as_in_llama_cpp(device_model_path: Path, form: Any) -> None:
    tokens = text(device_model_path)
    found = Compiled(build_model(device_model_path, form=form)).step(Part(tokens, BLOCKS))["logits"]
    assert divergence(llama_logits(device_model_path, tokens), found).mean() < 0.006


def test_a_file_of_mixed_types_answers_as_in_llama_cpp() -> None:
    path = resolve("qwen2.5-coder-0.5b-instruct").path
    tokens = text(path)
    found = Compiled(build_model(path, form="int4")).step(Part(tokens, BLOCKS))["logits"]
    assert divergence(llama_logits(path, tokens), found).mean() < 0.006


def test_the_shipped_pool_blends_as_in_llama_cpp(device_model_path: Path, tmp_path: Path) -> None:
    pool = Pool.open(find_pool("smollm2-135m"))
    tokens = text(device_model_path)
    slots = Slots([pool])
    model = Compiled(build_model(device_model_path, form="int4", slots=slots), blocks=16)
    one_hot, mixed, zero = np.eye(len(pool))[2], np.linspace(0.0, 0.15, len(pool)), np.zeros(len(pool))
    parts = [
        Part(tokens, [5 * i + n for n in BLOCKS], gates=slots.row(pool.id, weights.tolist()))
        for i, weights in enumerate((one_hot, mixed, zero))
    ]
    together = np.split(model.step(*parts)["logits"], 3)
    base = llama_logits(device_model_path, tokens)
    assert divergence(base, together[2]).mean() < 0.006
    for found, weights in zip(together, (one_hot, mixed), strict=False):
        file = tmp_path / "blend.gguf"
        file.write_bytes(gguf_bytes(blend(pool, weights.tolist()), pool.manifest.base.architecture))
        wanted = llama_logits(device_model_path, tokens, file)
        assert divergence(wanted, found).mean() < 0.01 < divergence(base, wanted).mean()
