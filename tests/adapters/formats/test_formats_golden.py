"""Adapters that PEFT saved, read by us and run by llama.cpp, against the logits that PEFT itself computed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from golden_tools import ARCHITECTURES, CLOSE, SINGLE, Golden

from crayon.adapters import AdapterImage, LoraTensors, Manifest, Member, Pool, Target, blend, blend_vector
from crayon.adapters.formats import (
    BaseShapes,
    pool_from_adapters,
    read_base,
    read_gguf_adapter,
    read_peft,
    write_gguf_adapter,
    write_peft,
)
from crayon.adapters.shared_a import join_b

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(params=ARCHITECTURES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden.load(request.param)


def worst(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.abs(found - wanted).max())


def same(one: LoraTensors, other: LoraTensors) -> None:
    """Both add the same to every weight, to the last bit of what is stored."""
    assert list(one.tensors) == list(other.tensors)
    assert one.scale == other.scale
    for target, (a, b) in one.tensors.items():
        assert np.array_equal(a, other.tensors[target][0]), target
        assert np.array_equal(b, other.tensors[target][1]), target


def test_the_bases_agree(golden: Golden) -> None:
    assert worst(golden.run(None), golden.logits["base"]) < CLOSE


@pytest.mark.parametrize("name", SINGLE)
def test_an_imported_adapter_gives_pefts_logits(golden: Golden, name: str) -> None:
    found, wanted = golden.run(golden.adapter(name)), golden.logits[name]
    assert worst(found, wanted) < CLOSE
    moved = wanted - golden.logits["base"]
    assert worst(wanted, golden.logits["base"]) > 50 * CLOSE, "the adapter matters"
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.01 * np.sqrt(np.mean(moved**2))


def unpermuted(golden: Golden, lora: LoraTensors) -> LoraTensors:
    return LoraTensors(
        {target: (a, golden.shapes.to_transformers(target, b)) for target, (a, b) in lora.tensors.items()}, lora.scale
    )


def test_without_the_permutation_llama_would_be_far_off() -> None:
    golden = Golden.load("llama")
    found = golden.run(unpermuted(golden, golden.adapter("plain")))
    assert worst(found, golden.logits["plain"]) > 50 * CLOSE


def test_qwen2_keeps_its_rows_and_permuting_them_would_be_far_off() -> None:
    golden = Golden.load("qwen2")
    same(unpermuted(golden, golden.adapter("plain")), golden.adapter("plain"))
    as_llama = replace(golden.shapes, architecture="llama")
    found = golden.run(read_peft(golden.folder / "plain", as_llama))
    assert worst(found, golden.logits["plain"]) > 50 * CLOSE


def test_kv_heads_are_not_taken_for_heads() -> None:
    golden = Golden.load("llama")
    shapes = golden.shapes
    assert shapes.kv_heads < shapes.heads
    wrong = read_peft(golden.folder / "plain", replace(shapes, kv_heads=shapes.heads))
    assert worst(golden.run(wrong), golden.logits["plain"]) > 10 * CLOSE


def test_the_factor_of_rslora_is_not_plain_loras(golden: Golden) -> None:
    lora = golden.adapter("rslora")
    assert lora.scale == pytest.approx(6 / np.sqrt(4))
    assert worst(golden.run(LoraTensors(lora.tensors, 6 / 4)), golden.logits["rslora"]) > 10 * CLOSE


def test_patterns_give_ranks_and_factors_of_their_own(golden: Golden) -> None:
    lora, plain = golden.adapter("patterns"), LoraTensors(golden.adapter("patterns").tensors)
    ranks = {target: a.shape[0] for target, (a, _) in lora.tensors.items()}
    assert {ranks[f"blk.{layer}.attn_q.weight"] for layer in range(3)} == {2}
    assert ranks.pop("blk.1.ffn_down.weight") == 6
    assert {rank for target, rank in ranks.items() if "attn_q" not in target} == {4}
    # All factors are in B: k has alpha 3 everywhere, the rest of attention 5 in the upper layers, q half the rank.
    raw = read_raw(golden.folder / "patterns")
    for target, module, factor in (
        ("blk.2.attn_k.weight", "model.layers.2.self_attn.k_proj", 3 / 4),
        ("blk.2.attn_v.weight", "model.layers.2.self_attn.v_proj", 5 / 4),
        ("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj", 5 / 2),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj", 8 / 2),
        ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj", 20 / 4),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj", 8 / 6),
    ):
        b = golden.shapes.to_transformers(target, plain.tensors[target][1])
        assert np.allclose(b, factor * raw[f"base_model.model.{module}.lora_B.weight"], rtol=1e-6), target


def read_raw(folder: Path) -> dict[str, NDArray[np.float32]]:
    from safetensors.numpy import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_half_the_layers_in_bfloat16(golden: Golden) -> None:
    lora = golden.adapter("partial")
    names = {f"blk.{layer}.{matrix}.weight" for layer in (1, 2) for matrix in ("attn_q", "attn_k", "ffn_down")}
    assert set(lora.tensors) == names
    assert lora.scale == 3.0


def test_a_blend_of_one_a_is_pefts_exact_sum(golden: Golden) -> None:
    weights = golden.blends["blend"]
    adapters = [golden.adapter(name) for name in weights]
    first = adapters[0]
    for lora in adapters[1:]:
        for target, (a, _) in lora.tensors.items():
            assert np.array_equal(a, first.tensors[target][0]), "one A for all"
    targets = tuple(Target(target, b.shape[0], a.shape[1]) for target, (a, b) in first.tensors.items())
    manifest = Manifest(
        name="golden",
        title="Golden",
        kind="shared",
        base=read_base(golden.model),
        rank=4,
        alpha=8.0,
        targets=targets,
        members=tuple(Member(name=name, title=name, rank=4, alpha=8.0) for name in weights),
        precision="F32",
    )
    b = np.stack([join_b({t: b for t, (_, b) in lora.tensors.items()}, targets, 4) for lora in adapters])
    pool = Pool.shared(manifest, b, a={target: a for target, (a, _) in first.tensors.items()})
    image = AdapterImage.of(pool)
    found = golden.run(bytes(image.fill(blend_vector(pool, list(weights.values())))))
    assert worst(found, golden.logits["blend"]) < CLOSE
    assert worst(golden.run(blend(pool, list(weights.values()))), golden.logits["blend"]) < CLOSE
    assert worst(golden.logits["blend"], golden.logits["shared-0"]) > 10 * CLOSE


def test_a_blend_of_adapters_of_all_kinds_is_pefts_cat(golden: Golden) -> None:
    weights = golden.blends["cat"]
    adapters = {name: golden.adapter(name) for name in weights}
    pool = pool_from_adapters(adapters, read_base(golden.model), golden.shapes, name="imported")
    assert pool.names == tuple(weights)
    found = golden.run(blend(pool, list(weights.values())))
    assert worst(found, golden.logits["cat"]) < CLOSE
    assert worst(golden.logits["cat"], golden.logits["plain"]) > 10 * CLOSE


def test_a_saved_pool_of_imports_gives_the_same_members(golden: Golden, tmp_path: Path) -> None:
    adapters = {name: golden.adapter(name) for name in SINGLE}
    pool = pool_from_adapters(adapters, read_base(golden.model), golden.shapes, name="imported")
    pool.save(tmp_path / "pool")
    opened = Pool.open(tmp_path / "pool")
    assert opened.manifest.precision == "F32", "small numbers of B are not rounded"
    assert opened.id == pool.id
    for k, lora in enumerate(adapters.values()):
        member = opened.member(k)
        assert member.scale == pytest.approx(lora.scale)
        for target, (a, b) in lora.tensors.items():
            assert np.array_equal(member.tensors[target][0], a)
            assert np.array_equal(member.tensors[target][1], b)


@pytest.mark.parametrize("name", SINGLE)
def test_an_export_to_peft_comes_back_the_same(golden: Golden, name: str, tmp_path: Path) -> None:
    lora = golden.adapter(name)
    write_peft(lora, tmp_path / "out", golden.shapes)
    same(read_peft(tmp_path / "out", golden.shapes), lora)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_an_export_holds_what_peft_saved(golden: Golden, tmp_path: Path) -> None:
    write_peft(golden.adapter("plain"), tmp_path / "out", golden.shapes)
    found, wanted = read_raw(tmp_path / "out"), read_raw(golden.folder / "plain")
    assert set(found) == set(wanted)
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


def test_a_blend_of_different_ranks_goes_to_peft_and_back(golden: Golden, tmp_path: Path) -> None:
    weights = golden.blends["cat"]
    adapters = {name: golden.adapter(name) for name in weights}
    pool = pool_from_adapters(adapters, read_base(golden.model), golden.shapes, name="imported")
    blended = blend(pool, list(weights.values()))
    assert len({a.shape[0] for a, _ in blended.tensors.values()}) > 1
    write_peft(blended, tmp_path / "out", golden.shapes)
    same(read_peft(tmp_path / "out", golden.shapes), blended)


@pytest.mark.parametrize("name", ["plain", "patterns", "partial"])
def test_a_gguf_export_comes_back_and_gives_pefts_logits(golden: Golden, name: str, tmp_path: Path) -> None:
    lora, path = golden.adapter(name), tmp_path / "out.gguf"
    write_gguf_adapter(lora, path, golden.shapes.architecture)
    back = read_gguf_adapter(path, golden.shapes)
    for target in lora.tensors:
        assert np.allclose(back.delta(target), lora.delta(target), rtol=1e-5, atol=1e-7)
    assert worst(golden.run(path.read_bytes()), golden.logits[name]) < CLOSE
    assert worst(golden.run(back), golden.logits[name]) < CLOSE


def test_the_header_of_a_base_gives_its_shapes(golden: Golden) -> None:
    shapes = golden.shapes
    assert (shapes.heads, shapes.kv_heads) == (4, 2)
    assert len(shapes.targets) == 21
    assert shapes.targets["blk.2.attn_k.weight"] == (16, 32)
    assert shapes.targets["blk.0.ffn_down.weight"] == (32, 48)
    assert isinstance(shapes, BaseShapes)
