"""Graphs built from GGUF files compute what llama.cpp computes from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from openvino_tools import (
    LAYERS,
    WIDTH,
    Compiled,
    Part,
    dequantized,
    divergence,
    llama_logits,
    random_tensors,
    write_tensors,
)
from tiny_chat import TOKENS
from tiny_kinds import write_kind

from crayon.errors import InvalidRequestError, ModelFileError
from crayon.llama.quantize import quantize

pytest.importorskip("openvino")

from crayon.server.engines.openvino.graph import build_model

if TYPE_CHECKING:
    from pathlib import Path

TEXT = np.random.default_rng(7).integers(3, len(TOKENS), 70).tolist()
BLOCKS = [5, 0, 3, 9]
ARCHITECTURES = ("llama", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openvino")


def logits(path: Path, **options: Any) -> Any:
    return Compiled(build_model(path, **options)).step(Part(TEXT, BLOCKS))["logits"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_graph_computes_what_llama_cpp_does(folder: Path, architecture: str) -> None:
    path = write_tensors(folder / f"{architecture}.gguf", architecture, random_tensors(architecture))
    found = logits(path, form="f16")
    assert found.shape == (len(TEXT), len(TOKENS))
    assert divergence(llama_logits(path, TEXT), found).max() < 0.001


@pytest.mark.parametrize("file_type", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_the_files_own_numbers_are_kept(folder: Path, file_type: str) -> None:
    whole = write_tensors(folder / f"whole-{file_type}.gguf", "llama", random_tensors("llama"))
    path = folder / f"{file_type}.gguf"
    quantize(whole, path, file_type, {})
    tensors, types = dequantized(path)
    assert file_type.removesuffix("_S").removesuffix("_M") in types
    reference = llama_logits(write_tensors(folder / f"same-{file_type}.gguf", "llama", tensors), TEXT)
    assert divergence(llama_logits(whole, TEXT), reference).max() > 0.001  # so the numbers do matter
    for form in ("f16", "int4"):
        assert divergence(reference, logits(path, form=form)).max() < 0.001, form
    assert divergence(reference, logits(path, form="int8")).mean() < 0.006


def test_float16_files_are_read(folder: Path) -> None:
    tensors = {n: t.astype(np.float16) if t.ndim > 1 else t for n, t in random_tensors("llama").items()}
    path = write_tensors(folder / "half.gguf", "llama", tensors)
    assert divergence(llama_logits(path, TEXT), logits(path, form="f16")).max() < 0.001


def test_a_model_in_several_files_is_read(folder: Path) -> None:
    whole = write_tensors(folder / "one.gguf", "llama", random_tensors("llama"))
    first = write_tensors(folder / "parts.gguf", "llama", random_tensors("llama"), most_tensors=12)
    assert first.name == "parts-00001-of-00003.gguf"
    assert np.array_equal(logits(first, form="f16"), logits(whole, form="f16"))


def test_groups_of_equal_weights_are_kept(folder: Path) -> None:
    tensors = random_tensors("llama")
    tensors["blk.1.ffn_up.weight"][:, 32:96] = 0.25
    tensors["blk.1.ffn_down.weight"][:, :32] = 0.0
    whole = write_tensors(folder / "flat-whole.gguf", "llama", tensors)
    path = folder / "flat.gguf"
    quantize(whole, path, "Q4_1", {})
    reference = llama_logits(write_tensors(folder / "flat-same.gguf", "llama", dequantized(path)[0]), TEXT)
    assert divergence(reference, logits(path, form="int4")).max() < 0.001


def test_sequences_in_one_step_are_computed_as_each_alone(folder: Path) -> None:
    path = write_tensors(folder / "steps.gguf", "qwen2", random_tensors("qwen2"))
    model = Compiled(build_model(path, form="f16"))
    whole, other = model.step(Part(TEXT, [0, 1, 2]))["logits"], model.step(Part(TEXT[:9], [3]))["logits"]
    model.step(Part(TEXT[:40], [7, 4]), Part(TEXT[:5], [8]))
    found = model.step(Part(TEXT[40:], [7, 4, 6], past=40), Part(TEXT[5:9], [8], past=5))["logits"]
    assert np.abs(found[:30] - whole[40:]).max() < 0.02
    assert np.abs(found[30:] - other[5:]).max() < 0.02


def test_only_the_rows_that_are_asked_for_have_logits(folder: Path) -> None:
    import openvino as ov

    path = write_tensors(folder / "rows.gguf", "llama", random_tensors("llama"))
    model = Compiled(build_model(path, form="f16"))
    whole = model.step(Part(TEXT, BLOCKS))["logits"]
    model._request.set_tensor("sampled_tokens_indices", ov.Tensor(np.array([69, 3], np.int64)))
    model._request.infer()
    assert np.abs(model._request.get_tensor("logits").data - whole[[69, 3]]).max() < 1e-4


@pytest.mark.parametrize("layer", [0, LAYERS - 1])
def test_a_middle_layer_is_given_for_every_token(folder: Path, layer: int) -> None:
    from crayon.llama.batch import Batch
    from crayon.llama.context import Context
    from crayon.llama.model import Model
    from crayon.llama.tap import Tap

    path = write_tensors(folder / f"layer-{layer}.gguf", "llama", random_tensors("llama"))
    found = Compiled(build_model(path, form="f16", middle_layer=layer)).step(Part(TEXT, BLOCKS))
    tap = Tap(f"l_out-{layer}", WIDTH, stop=False)
    with Model(path) as model, Context(model, n_ctx=128, threads=1, tap=tap) as context:
        batch = Batch(len(TEXT))
        batch.add(TEXT, 0, 0, "all")  # else llama.cpp computes the last layer for the last row only
        context.decode(batch)
        wanted = tap.take()
    assert found["hidden"].shape == wanted.shape
    assert np.abs(found["hidden"] - wanted).max() < 0.02 * np.abs(wanted).max()
    assert divergence(llama_logits(path, TEXT), found["logits"]).max() < 0.001


def test_scaled_positions_are_llama_cpps(folder: Path) -> None:
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    tensors = random_tensors("llama")
    tensors["rope_freqs.weight"] = np.linspace(1.0, 6.0, 16, dtype=np.float32)
    path = write_tensors(folder / "scaled.gguf", "llama", tensors, scaling)
    plain = write_tensors(folder / "plain.gguf", "llama", random_tensors("llama"))
    reference = llama_logits(path, TEXT)
    assert divergence(reference, llama_logits(plain, TEXT)).max() > 0.01
    assert divergence(reference, logits(path, form="f16")).max() < 0.001


def test_what_the_graph_does_not_know_is_refused_by_name(folder: Path) -> None:
    whole = write_tensors(folder / "whole.gguf", "llama", random_tensors("llama"))
    nonlinear = folder / "nonlinear.gguf"
    quantize(whole, nonlinear, "IQ4_NL", {})
    extra = random_tensors("llama") | {"blk.1.attn_q_norm.weight": np.ones(32, np.float32)}
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    lacking = random_tensors("llama")
    del lacking["blk.2.ffn_up.weight"]
    for path, problem in (
        (nonlinear, r"is of type IQ4_NL, and the engine openvino reads F32, F16, Q4_0, .*Q6_K, BF16"),
        (write_kind(folder / "gemma.gguf", "gemma3"), "its architecture is 'gemma3', and .* knows llama, qwen2, qwen3"),
        (write_tensors(folder / "extra.gguf", "llama", extra), "what to do with the tensor 'blk.1.attn_q_norm.weight'"),
        (write_tensors(folder / "yarn.gguf", "llama", lacking, yarn), "llama.rope.scaling.type is 'yarn', and must be"),
        (write_tensors(folder / "lacking.gguf", "llama", lacking), "lacks the tensor 'blk.2.ffn_up.weight'"),
    ):
        with pytest.raises(ModelFileError, match=problem):
            build_model(path, form="f16")
    with pytest.raises(InvalidRequestError, match="form: is 'int2'; there are f16, int8, int4"):
        build_model(whole, form="int2")  # type: ignore[arg-type]  # there is no such form
    with pytest.raises(InvalidRequestError, match="middle_layer: is 3; the model has 3"):
        build_model(whole, form="f16", middle_layer=3)
