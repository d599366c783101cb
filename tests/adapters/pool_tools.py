"""Pools of a few numbers, and their files taken apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load, save

from crayon.adapters import BaseModel, EncoderRecord, LoraTensors, Manifest, Member, Pool, Score, Target

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BASE = BaseModel("tiny", "ab" * 32, "llama", 4, 64)
TARGETS = (Target("blk.2.ffn_down.weight", 6, 10), Target("blk.3.attn_q.weight", 5, 7))
RANK, WIDTH = 3, 4


def members(count: int, rank: int = RANK) -> tuple[Member, ...]:
    """Members m0, m1, ..."""
    return tuple(
        Member(
            name=f"m{k}",
            title=f"Member {k}",
            rank=rank,
            alpha=2.0 * rank,
            datasets=("clinc150",),
            licences=("CC-BY-3.0",),
            items=10,
            score=Score(30.0, 85.5, 70, "accuracy"),
        )
        for k in range(count)
    )


def shared_manifest(count: int = 3, **changes: Any) -> Manifest:
    """The manifest of a pool that shares A."""
    manifest = Manifest(
        name="tiny-pool",
        title="Tiny",
        kind="shared",
        base=BASE,
        rank=RANK,
        alpha=2.0 * RANK,
        targets=TARGETS,
        members=members(count),
        encoder=EncoderRecord(2, WIDTH),
        training={"steps": 3, "tasks": ["a", "b"]},
    )
    return replace(manifest, **changes)


def unit(rng: np.random.Generator, rows: int, width: int = WIDTH) -> NDArray[np.float32]:
    """Random unit rows."""
    vectors = rng.standard_normal((rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def shared_pool(count: int = 3, seed: int = 0, **changes: Any) -> Pool:
    """A random pool that shares A; with `a_seed` its A is not in the file."""
    rng = np.random.default_rng(seed)
    manifest = shared_manifest(count, **changes)
    a = None
    if manifest.a_seed is None:
        a = {t.name: rng.standard_normal((RANK, t.inputs)).astype(np.float32) for t in TARGETS}
    b = rng.standard_normal((count, 11 * RANK)).astype(np.float32)
    centre = rng.standard_normal(WIDTH).astype(np.float32)
    if manifest.encoder is None:
        return Pool.shared(manifest, b, a=a)
    return Pool.shared(manifest, b, a=a, keys=unit(rng, count), centre=centre)


def lora(rng: np.random.Generator, rank: int, scale: float = 2.0, targets: tuple[Target, ...] = TARGETS) -> LoraTensors:
    """A random adapter."""
    return LoraTensors(
        {
            t.name: (
                rng.standard_normal((rank, t.inputs)).astype(np.float32),
                rng.standard_normal((t.outputs, rank)).astype(np.float32),
            )
            for t in targets
        },
        scale,
    )


def independent_pool(ranks: tuple[int, ...] = (1, 3), seed: int = 0, **changes: Any) -> Pool:
    """A random pool of members with their own A; the last leaves out the second target."""
    rng = np.random.default_rng(seed)
    manifest = replace(
        shared_manifest(encoder=None),
        kind="independent",
        rank=max(ranks),
        members=tuple(replace(members(1, rank)[0], name=f"m{k}") for k, rank in enumerate(ranks)),
        **changes,
    )
    adapters = [lora(rng, rank, targets=TARGETS[: 1 if k else 2]) for k, rank in enumerate(ranks)]
    return Pool.independent(manifest, adapters)


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change fields of a saved pool's manifest."""
    table = json.loads((folder / "pool.json").read_text("utf-8"))
    (folder / "pool.json").write_text(json.dumps(table | changes), "utf-8")


def put_tensors(folder: Path, data: bytes) -> None:
    """Replace a saved pool's tensor file, and make the manifest promise just these bytes."""
    (folder / "pool.safetensors").write_bytes(data)
    edit_manifest(folder, tensors_sha256=hashlib.sha256(data).hexdigest())


def edit_tensors(folder: Path, **changes: NDArray[Any] | None) -> None:
    """Change tensors of a saved pool, or leave out those that are None; the hash is made to fit."""
    tensors = load((folder / "pool.safetensors").read_bytes()) | changes
    put_tensors(folder, save({name: tensor for name, tensor in tensors.items() if tensor is not None}))
