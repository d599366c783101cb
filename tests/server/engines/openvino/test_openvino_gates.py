"""Gates: every row of a step mixes the members of pools for itself, as llama.cpp does with the blended adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from openvino_tools import LAYERS, SHAPES, Compiled, Part, divergence, llama_logits, random_tensors, write_tensors
from tiny_chat import TOKENS
from tiny_pool import members

from crayon.adapters import BaseModel, LoraTensors, Manifest, Pool, Target, blend, gguf_bytes
from crayon.errors import AdapterError, InvalidRequestError

pytest.importorskip("openvino")

from crayon.server.engines.openvino.gates import Slots
from crayon.server.engines.openvino.graph import build_model

if TYPE_CHECKING:
    from pathlib import Path

TEXT = np.random.default_rng(8).integers(3, len(TOKENS), 40).tolist()
TARGETS = tuple(
    Target(f"blk.{layer}.{name}.weight", *SHAPES[name])
    for layer in range(1, LAYERS)
    for name in ("attn_q", "attn_k", "attn_output", "ffn_up", "ffn_down")
)
RANK = 4


def manifest(name: str, kind: Any, count: int, ranks: tuple[int, ...] = ()) -> Manifest:
    base = BaseModel("grouped", "0" * 64, "llama", LAYERS, 256)
    return Manifest(
        name=name,
        title=name,
        kind=kind,
        base=base,
        rank=max(ranks, default=RANK),
        alpha=2.0 * max(ranks, default=RANK),
        targets=TARGETS,
        members=members(count, ranks or (RANK,) * count),
        a_seed=3 if kind == "shared" else None,
    )


def shared_pool(count: int = 3, seed: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    b = rng.standard_normal((count, sum(target.outputs * RANK for target in TARGETS))) * 0.1
    return Pool.shared(manifest(f"shared-{seed}", "shared", count), b.astype(np.float32))


def independent_pool(ranks: tuple[int, ...] = (2, 3)) -> Pool:
    rng = np.random.default_rng(5)

    def matrix(rows: int, columns: int, scale: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (scale * rng.standard_normal((rows, columns))).astype(np.float32)

    adapters = [
        LoraTensors({t.name: (matrix(r, t.inputs, 0.06), matrix(t.outputs, r, 0.15)) for t in TARGETS[i:]}, scale=2.0)
        for i, r in enumerate(ranks)
    ]
    return Pool.independent(manifest("own", "independent", len(ranks), ranks), adapters)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tensors(tmp_path_factory.mktemp("gates") / "llama.gguf", "llama", random_tensors("llama"))


def reference(path: Path, folder: Path, pool: Pool, weights: list[float]) -> Any:
    """What llama.cpp computes with the blend as one adapter."""
    file = folder / "blend.gguf"
    file.write_bytes(gguf_bytes(blend(pool, weights), "llama"))
    return llama_logits(path, TEXT, file)


@pytest.mark.parametrize("form", ["f16", "int8"])
def test_rows_of_one_step_get_each_its_blend(path: Path, tmp_path: Path, form: Any) -> None:
    shared, own = shared_pool(), independent_pool()
    slots = Slots([shared, own])
    assert slots.count == 5
    model = Compiled(build_model(path, form=form, slots=slots))
    asked = [
        (shared, [1.0, 0.0, 0.0]),
        (shared, [0.0, 0.0, 0.0]),
        (own, [0.5, -1.0]),
        (shared, [0.2, 0.7, 0.4]),
        (own, [0.0, 1.0]),
    ]
    parts = [
        Part(TEXT, [2 * i, 2 * i + 1], gates=slots.row(pool.id, weights)) for i, (pool, weights) in enumerate(asked)
    ]
    together = np.split(model.step(*parts)["logits"], len(parts))
    base = llama_logits(path, TEXT)
    for part, found, (pool, weights) in zip(parts, together, asked, strict=True):
        alone = model.step(part)["logits"]
        assert np.abs(found - alone).max() < 0.01
        wanted = reference(path, tmp_path, pool, weights) if any(weights) else base
        assert divergence(wanted, found).mean() < 0.01
        assert not any(weights) or divergence(base, wanted).mean() > 0.1  # so the blends do matter


def test_another_file_form_gates_the_same(path: Path, tmp_path: Path) -> None:
    from crayon.llama.quantize import quantize

    small, pool = tmp_path / "q4_1.gguf", shared_pool()
    quantize(path, small, "Q4_1", {})
    weights = [0.0, 0.4, 0.6]
    wanted = reference(small, tmp_path, pool, weights)
    slots = Slots([pool])
    part = Part(TEXT, [0, 1], gates=slots.row(pool.id, weights))
    found = Compiled(build_model(small, form="int4", slots=slots)).step(part)["logits"]
    assert divergence(wanted, found).mean() < 0.01


def test_a_pool_that_does_not_fit_is_refused(path: Path) -> None:
    pool = shared_pool()
    foreign = Target("blk.7.attn_q.weight", *SHAPES["attn_q"])
    narrow = Target("blk.1.ffn_up.weight", 8, 256)
    for target, problem in (
        (foreign, "changes blk.7.attn_q.weight, which the model does not have"),
        (narrow, r"blk.1.ffn_up.weight is \(256, 256\) in the model, and what a pool adds to it \(8, 256\)"),
    ):
        other = Pool.shared(replace(pool.manifest, targets=(target,)), np.zeros((3, target.outputs * RANK), np.float32))
        with pytest.raises(AdapterError, match=problem):
            build_model(path, form="f16", slots=Slots([other]))


def test_gates_are_checked() -> None:
    pool = shared_pool()
    slots = Slots([pool])
    with pytest.raises(AdapterError, match="there is no pool 'other'"):
        slots.row("other", [1.0])
    with pytest.raises(InvalidRequestError, match="are 2, the pool"):
        slots.row(pool.id, [1.0, 0.0])
    for pools in ([], [pool, pool]):
        with pytest.raises(AdapterError, match="give one pool or more, each once"):
            Slots(pools)
