from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from crayon.errors import ModelFileError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.quantize import FILE_TYPES, quantize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def logits(path: Path) -> NDArray[np.float32]:
    with Model(path) as model, Context(model, n_ctx=64, threads=1) as context:
        batch = Batch(5)
        batch.add([3, 1, 4, 1, 5], 0, 0, "last")
        context.decode(batch)
        return context.logits(4).copy()


def test_a_quantized_file_is_smaller_close_and_carries_metadata(tiny_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "größe.gguf"
    quantize(tiny_path, target, "Q8_0", {"crayon.prepared.source_sha256": "ab" * 32, "crayon.prepared.type": "Q8_0"})
    assert target.stat().st_size < tiny_path.stat().st_size
    with Model(target) as model:
        assert model.metadata["crayon.prepared.source_sha256"] == "ab" * 32
        assert model.metadata["crayon.prepared.type"] == "Q8_0"
        assert model.metadata["llama.block_count"] == "1"
    change = np.abs(logits(target) - logits(tiny_path)).max()
    assert 0 < change < 0.1


@pytest.mark.parametrize("file_type", ["Q4_0", "Q4_1", "Q5_0", "IQ4_NL"])
def test_other_types_run(tiny_path: Path, tmp_path: Path, file_type: str) -> None:
    target = tmp_path / "out.gguf"
    quantize(tiny_path, target, file_type, {})
    assert np.isfinite(logits(target)).all()


def test_the_names_are_llama_cpps_file_types() -> None:
    from llama_cpp import llama_cpp

    assert {name: getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}") for name in FILE_TYPES} == FILE_TYPES


def test_what_cannot_be_done_is_said(tiny_path: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.gguf"
    foreign.write_text("no model")
    with pytest.raises(ModelFileError, match=r"foreign\.gguf cannot be requantized to Q8_0: .+"):
        quantize(foreign, tmp_path / "out.gguf", "Q8_0", {})
    with pytest.raises(ModelFileError, match="cannot be requantized"):
        quantize(tiny_path, tmp_path / "no such folder" / "out.gguf", "Q8_0", {})
    with pytest.raises(ValueError, match="'Q3_X' is not one of Q4_0, "):
        quantize(tiny_path, tmp_path / "out.gguf", "Q3_X", {})
    for key, value in (("k" * 128, "v"), ("k", "é" * 64)):
        with pytest.raises(ValueError, match="too long"):
            quantize(tiny_path, tmp_path / "out.gguf", "Q8_0", {key: value})
