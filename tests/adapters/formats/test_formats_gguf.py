"""GGUF adapters that somebody else made: read as llama.cpp would use them, or refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from golden_tools import Golden

from crayon.adapters import LoraTensors
from crayon.adapters.formats import read_adapter, read_gguf_adapter, write_gguf_adapter
from crayon.errors import AdapterError, AdapterMismatchError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TARGET = "blk.1.attn_q.weight"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden.load("llama")


def matrices(rank: int = 4, target: str = TARGET, outputs: int = 32, inputs: int = 32) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rank)
    return {
        f"{target}.lora_a": (rng.standard_normal((rank, inputs)) / 8).astype(np.float32),
        f"{target}.lora_b": (rng.standard_normal((outputs, rank)) / 2).astype(np.float32),
    }


def write(path: Path, tensors: dict[str, NDArray[Any]], alpha: float | None = 8.0, **texts: str) -> Path:
    writer = gguf.GGUFWriter(path, texts.get("architecture", "llama"))
    writer.add_type(texts.get("type", "adapter"))
    writer.add_string("adapter.type", texts.get("adapter", "lora"))
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    if "alora" in texts:
        writer.add_array("adapter.alora.invocation_tokens", [1, 2])
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("alpha", "factor"), [(8.0, 2.0), (None, 1.0), (0.0, 1.0), (-4.0, -1.0)])
def test_alpha_means_what_llama_cpp_makes_of_it(
    golden: Golden, tmp_path: Path, alpha: float | None, factor: float
) -> None:
    tensors = matrices()
    path = write(tmp_path / "a.gguf", tensors, alpha)
    lora = read_gguf_adapter(path, golden.shapes)
    wanted = factor * tensors[f"{TARGET}.lora_b"] @ tensors[f"{TARGET}.lora_a"]
    assert np.allclose(lora.delta(TARGET), wanted, atol=1e-6)
    # The file itself in llama.cpp, against what we read out of it and wrote anew.
    there = golden.run(path.read_bytes())
    assert np.abs(golden.run(lora) - there).max() < 1e-3
    assert np.abs(there - golden.logits["base"]).max() > 0.2


def test_alpha_goes_over_each_matrix_own_rank(golden: Golden, tmp_path: Path) -> None:
    wide = matrices(6, "blk.0.ffn_down.weight", 32, 48)
    path = write(tmp_path / "a.gguf", matrices(2) | wide)
    lora = read_gguf_adapter(path, golden.shapes)
    assert list(lora.tensors) == ["blk.0.ffn_down.weight", TARGET], "in the base's order"
    for target, rank in ((TARGET, 2), ("blk.0.ffn_down.weight", 6)):
        tensors = matrices(2) | wide
        wanted = 8.0 / rank * tensors[f"{target}.lora_b"] @ tensors[f"{target}.lora_a"]
        assert np.allclose(lora.delta(target), wanted, atol=1e-6)
    assert np.abs(golden.run(lora) - golden.run(path.read_bytes())).max() < 1e-3


def test_halves_are_read(golden: Golden, tmp_path: Path) -> None:
    whole = matrices()
    path = write(tmp_path / "f16.gguf", {name: tensor.astype(np.float16) for name, tensor in whole.items()})
    lora = read_gguf_adapter(path, golden.shapes)
    assert np.array_equal(lora.tensors[TARGET][0], whole[f"{TARGET}.lora_a"].astype(np.float16))
    writer = gguf.GGUFWriter(tmp_path / "bf16.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    for name, tensor in whole.items():
        data = (tensor.view(np.uint32) >> 16).astype(np.uint16)
        writer.add_tensor(name, data.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lora = read_adapter(tmp_path / "bf16.gguf", golden.shapes)
    assert np.allclose(lora.tensors[TARGET][0], whole[f"{TARGET}.lora_a"], rtol=2**-7, atol=0)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"type": "model"}, "of the type 'model', not an adapter"),
        ({"adapter": "dora"}, "adapter.type is 'dora'"),
        ({"alora": "yes"}, "acts only after certain words"),
    ],
)
def test_other_kinds_are_refused_by_name(golden: Golden, tmp_path: Path, texts: dict[str, str], words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        read_gguf_adapter(write(tmp_path / "a.gguf", matrices(), **texts), golden.shapes)


def test_another_architecture_is_a_mismatch(golden: Golden, tmp_path: Path) -> None:
    with pytest.raises(AdapterMismatchError, match=r"for the architecture 'qwen2'; base\.gguf is 'llama'"):
        read_gguf_adapter(write(tmp_path / "a.gguf", matrices(), architecture="qwen2"), golden.shapes)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "changes nothing"),
        ({"output.weight.lora_a": np.ones((4, 32), np.float32)}, "changes 'output.weight'"),
        ({"token_embd.weight.lora_a": np.ones((4, 256), np.float32)}, "changes 'token_embd.weight'"),
        ({f"{TARGET}.lora_c": np.ones((4, 32), np.float32)}, "neither A nor B"),
        ({f"{TARGET}.lora_a": np.ones((4, 32), np.float32)}, "only its lora_a"),
        (matrices(target="blk.9.attn_q.weight"), "which base.gguf does not have"),
        (matrices(inputs=40), "32 x 32 in base.gguf and 32 x 40 in the adapter"),
        (matrices(rank=1025), "rank 1025"),
        ({**matrices(), f"{TARGET}.lora_b": np.ones((32, 5), np.float32)}, "are not"),
        ({**matrices(), f"{TARGET}.lora_b": np.full((32, 4), np.nan, np.float32)}, "not finite"),
        ({**matrices(), f"{TARGET}.lora_b": np.ones((32, 4), np.int32)}, "ggml's type 26"),
    ],
)
def test_tensors_that_cannot_be_right(
    golden: Golden, tmp_path: Path, tensors: dict[str, NDArray[Any]], words: str
) -> None:
    with pytest.raises(AdapterError, match=words):
        read_gguf_adapter(write(tmp_path / "a.gguf", tensors), golden.shapes)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e9])
def test_an_alpha_that_is_no_number(golden: Golden, tmp_path: Path, alpha: float) -> None:
    with pytest.raises(AdapterError, match="alpha"):
        read_gguf_adapter(write(tmp_path / "a.gguf", matrices(), alpha), golden.shapes)


def test_damaged_files(golden: Golden, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf", matrices()).read_bytes()
    for length in (0, 4, 23, 100, len(whole) // 2, len(whole) - 32):
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:length])
        with pytest.raises(AdapterError, match=r"cut\.gguf"):
            read_gguf_adapter(path, golden.shapes)
    twice = whole.replace(b".lora_b", b".lora_a")
    (tmp_path / "twice.gguf").write_bytes(twice)
    with pytest.raises(AdapterError, match="twice"):
        read_gguf_adapter(tmp_path / "twice.gguf", golden.shapes)
    with pytest.raises(AdapterError, match="not an adapter"):
        read_adapter(golden.model, golden.shapes)


def test_an_export_overwrites_nothing(golden: Golden, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_text("mine")
    with pytest.raises(AdapterError, match="is there already"):
        write_gguf_adapter(golden.adapter("plain"), path, "llama")
    assert path.read_text() == "mine"


def test_a_number_that_half_precision_cannot_hold(golden: Golden, tmp_path: Path) -> None:
    a, b = (matrix.copy() for matrix in golden.adapter("plain").tensors[TARGET])
    b[0, 0] = 1e6
    with pytest.raises(AdapterError, match="too large"):
        write_gguf_adapter(LoraTensors({TARGET: (a, b)}), tmp_path / "out.gguf", "llama", kind="f16")
    assert list(tmp_path.iterdir()) == []
