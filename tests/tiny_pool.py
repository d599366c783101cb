"""Small random pools for the small random chat model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from tiny_chat import HIDDEN, LAYERS, SHAPES, WIDTH

from crayon.adapters import BaseModel, LoraTensors, Manifest, Member, Pool, Target

if TYPE_CHECKING:
    from pathlib import Path

RANK, ALPHA = 4, 8.0
TARGETS = tuple(
    Target(f"blk.{layer}.{name}.weight", *SHAPES[name])
    for layer in range(LAYERS // 2, LAYERS)
    for name in ("attn_q", "attn_v", "ffn_up", "ffn_down")
)


def base_of(model: Path, sha256: str = "") -> BaseModel:
    """What a pool says of the small model."""
    sha256 = sha256 or hashlib.sha256(model.read_bytes()).hexdigest()
    return BaseModel("tiny-chat", sha256, "llama", LAYERS, WIDTH)


def members(count: int, ranks: tuple[int, ...] = ()) -> tuple[Member, ...]:
    """Members called a, b, c, ..."""
    ranks = ranks or (RANK,) * count
    return tuple(
        Member(name=chr(97 + i), title=f"Task {i}", rank=rank, alpha=2.0 * rank) for i, rank in enumerate(ranks)
    )


def shared_pool(model: Path, count: int = 3, *, seed: int = 0, size: float = 4.0, sha256: str = "") -> Pool:
    """A pool of one A and `count` random Bs, each of which changes answers by far more than rounding."""
    rng = np.random.default_rng(seed)
    n = sum(target.outputs * RANK for target in TARGETS)
    manifest = Manifest(
        name=f"tiny-{seed}",
        title="A tiny pool",
        kind="shared",
        base=base_of(model, sha256),
        rank=RANK,
        alpha=ALPHA,
        targets=TARGETS,
        members=members(count),
        a_seed=seed,
    )
    return Pool.shared(manifest, (size * rng.standard_normal((count, n)) / np.sqrt(HIDDEN)).astype(np.float32))


def independent_pool(model: Path, ranks: tuple[int, ...] = (2, 4), *, seed: int = 7, size: float = 4.0) -> Pool:
    """A pool of members with their own A and rank."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return (scale * rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    adapters = [
        LoraTensors(
            {t.name: (matrix(rank, t.inputs, 1.0), matrix(t.outputs, rank, size / 4)) for t in TARGETS}, scale=2.0
        )
        for rank in ranks
    ]
    manifest = Manifest(
        name=f"mixed-{seed}",
        title="Adapters of many makers",
        kind="independent",
        base=base_of(model),
        rank=max(ranks),
        alpha=2.0 * max(ranks),
        targets=TARGETS,
        members=members(len(ranks), ranks),
    )
    return Pool.independent(manifest, adapters)
