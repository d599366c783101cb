"""Names of matrices, the order of rows, and what is read of a base."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from golden_tools import Golden
from hypothesis import given
from hypothesis import strategies as st

from crayon.adapters.formats import (
    BaseShapes,
    claimed_base,
    member_name,
    module_name,
    pool_from_adapters,
    read_base,
    target_name,
    write_gguf_adapter,
    write_peft,
)
from crayon.adapters.formats.matrices import permute_rows, restore_rows
from crayon.adapters.lora import LoraTensors
from crayon.errors import AdapterError, AdapterMismatchError, ModelFileError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("model.layers.0.self_attn.q_proj", "blk.0.attn_q.weight"),
        ("model.layers.29.self_attn.o_proj", "blk.29.attn_output.weight"),
        ("model.layers.7.mlp.gate_proj", "blk.7.ffn_gate.weight"),
        ("model.layers.7.mlp.down_proj", "blk.7.ffn_down.weight"),
    ],
)
def test_names_go_both_ways(module: str, target: str) -> None:
    assert target_name(module) == target
    assert module_name(target) == module


@pytest.mark.parametrize(
    "name",
    ["", "lm_head", "model.embed_tokens", "model.layers.01.mlp.up_proj", "model.layers.x.mlp.up_proj", "blk.0.attn_q"],
)
def test_other_names_have_no_counterpart(name: str) -> None:
    assert target_name(name) is None
    assert module_name(name) is None


def test_the_halves_of_each_head_are_interleaved() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert permute_rows(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert permute_rows(rows, 1).ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@given(heads=st.integers(1, 5), half=st.integers(1, 5), columns=st.integers(1, 4))
def test_restoring_undoes_permuting(heads: int, half: int, columns: int) -> None:
    matrix = np.arange(heads * 2 * half * columns, dtype=np.float32).reshape(-1, columns)
    assert np.array_equal(restore_rows(permute_rows(matrix, heads), heads), matrix)
    assert np.array_equal(permute_rows(restore_rows(matrix, heads), heads), matrix)


def header(path: Path, architecture: str, heads: int | list[int] | None = 4, rows: int = 32) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    if heads is not None:
        writer.add_head_count(heads)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((rows, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_architecture_of_unknown_order_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AdapterMismatchError, match="'gemma3'; adapters can be read for llama, qwen2"):
        BaseShapes.read(header(tmp_path / "a.gguf", "gemma3"))


@pytest.mark.parametrize(("heads", "rows"), [(None, 32), (0, 32), ([4, 4], 32), (5, 32), (4, 12)])
def test_heads_that_cannot_be(tmp_path: Path, heads: int | list[int] | None, rows: int) -> None:
    with pytest.raises(ModelFileError, match="head"):
        BaseShapes.read(header(tmp_path / "a.gguf", "llama", heads, rows))


def test_one_number_of_heads_stands_for_both(tmp_path: Path) -> None:
    shapes = BaseShapes.read(header(tmp_path / "a.gguf", "llama"))
    assert (shapes.heads, shapes.kv_heads, shapes.targets) == (4, 4, {"blk.0.attn_q.weight": (32, 32)})


def test_a_base_is_named_by_its_source(tmp_path: Path) -> None:
    golden = Golden.load("qwen2")
    base = read_base(golden.model)
    assert base.source_sha256 == hashlib.sha256(golden.model.read_bytes()).hexdigest()
    assert (base.name, base.architecture, base.n_layer, base.n_embd) == ("base", "qwen2", 3, 32)
    assert read_base(golden.model, "tiny", "ab" * 32).source_sha256 == "ab" * 32
    prepared = tmp_path / "prepared.gguf"
    writer = gguf.GGUFWriter(prepared, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_string("crayon.source.sha256", "cd" * 32)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_base(prepared).source_sha256 == "cd" * 32


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("My Adapter (v2)", "my-adapter-v2"),
        ("../../etc", "etc"),
        ("漢字", "adapter"),
        ("a" * 99, "a" * 80),
        ("b_1.c", "b_1.c"),
    ],
)
def test_any_text_makes_a_members_name(text: str, name: str) -> None:
    assert member_name(text) == name


# -- pools of imports


def test_who_imports_can_be_shown_which_base_is_claimed(tmp_path: Path) -> None:
    golden = Golden.load("llama")
    assert claimed_base(golden.folder / "plain") == ""
    write_peft(golden.adapter("plain"), tmp_path / "a", golden.shapes, base_name="some/model\x1b[2J\n" + "x" * 999)
    assert claimed_base(tmp_path / "a").startswith("some/model [2J x")
    assert len(claimed_base(tmp_path / "a")) <= 200
    write_gguf_adapter(golden.adapter("plain"), tmp_path / "a.gguf", "llama")
    assert claimed_base(tmp_path / "a.gguf") == ""
    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "llama")
    writer.add_string("general.base_model.0.name", "Tiny")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert claimed_base(tmp_path / "b.gguf") == "Tiny"
    with pytest.raises(AdapterError, match="no such file"):
        claimed_base(tmp_path / "c.gguf")


def test_a_pool_needs_adapters_that_fit() -> None:
    golden = Golden.load("llama")
    base, lora = read_base(golden.model), golden.adapter("plain")
    with pytest.raises(AdapterError, match="at least one"):
        pool_from_adapters({}, base, golden.shapes, name="empty")
    with pytest.raises(AdapterError, match="pool: name"):
        pool_from_adapters({"a": lora}, base, golden.shapes, name="../up")
    with pytest.raises(AdapterError, match="members: name"):
        pool_from_adapters({"A b": lora}, base, golden.shapes, name="good")
    other = LoraTensors({"blk.5.attn_q.weight": lora.tensors["blk.1.attn_q.weight"]})
    with pytest.raises(AdapterMismatchError, match=r"^b: the adapter changes blk\.5"):
        pool_from_adapters({"a": lora, "b": other}, base, golden.shapes, name="good")


def test_a_factor_below_zero_goes_into_b() -> None:
    golden = Golden.load("llama")
    lora = golden.adapter("plain")
    for scale in (-2.0, 0.0):
        turned = LoraTensors(lora.tensors, scale)
        pool = pool_from_adapters({"turned": turned}, read_base(golden.model), golden.shapes, name="turned")
        member = pool.member(0)
        assert member.scale == 1.0
        assert all(np.allclose(member.delta(target), turned.delta(target)) for target in lora.tensors)


def test_what_half_precision_holds_exactly_is_kept_in_it() -> None:
    golden = Golden.load("llama")
    lora = golden.adapter("plain")
    half = LoraTensors(
        {
            t: (a.astype(np.float16).astype(np.float32), b.astype(np.float16).astype(np.float32))
            for t, (a, b) in lora.tensors.items()
        },
        lora.scale,
    )
    base = read_base(golden.model)
    assert pool_from_adapters({"a": half}, base, golden.shapes, name="half").manifest.precision == "F16"
    assert pool_from_adapters({"a": half, "b": lora}, base, golden.shapes, name="both").manifest.precision == "F32"
