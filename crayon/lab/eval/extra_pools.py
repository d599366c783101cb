"""Adapters that only the comparison needs: trained on the samples alone, or of random numbers."""

from __future__ import annotations

import importlib
import importlib.util
import io
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.adapters.gate import Gate
from crayon.adapters.manifest import Member
from crayon.adapters.pool import Pool
from crayon.adapters.shared_a import join_b, split_b
from crayon.errors import AdapterError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.customising.sample import Sample
    from crayon.lab.eval.answer_cache import AnswerCache

    Train: TypeAlias = Callable[[Pool, Sequence[Sample], int], NDArray[np.float32]]

_TRAINING = "crayon.training.fresh"


def trainer() -> Train:
    """Return what trains a fresh adapter on a user's samples.

    Raises:
        MissingExtraError: the extra 'train' is not installed.
    """
    try:
        for name in ("torch", _TRAINING):
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
        module = importlib.import_module(_TRAINING)
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", "the control fresh") from error
    found: Train = module.train_fresh
    return found


def fresh_vector(
    train: Train,
    pool: Pool,
    samples: Sequence[Sample],
    seed: int,
    cache: AnswerCache,
) -> NDArray[np.float32]:
    """Return the B of an adapter trained on the samples alone, (N,); trained once."""
    manifest = pool.manifest
    made_of = [manifest.base.source_sha256, manifest.rank, manifest.alpha, manifest.a_seed]
    shapes = [[target.name, target.outputs, target.inputs] for target in manifest.targets]
    texts = [[sample.question, sample.answer, sample.choices] for sample in samples]
    key = cache.key("fresh-1", made_of, shapes, texts, seed)
    kept = cache.get(key)
    if kept is not None:
        return np.asarray(np.load(io.BytesIO(kept), allow_pickle=False), np.float32)
    vector = np.asarray(train(pool, samples, seed), np.float32)
    if vector.shape != pool.b[0].shape or not np.isfinite(vector).all():
        raise AdapterError(f"a fresh adapter came out with shape {vector.shape}, expected finite {pool.b[0].shape}")
    file = io.BytesIO()
    np.save(file, vector, allow_pickle=False)
    cache.put(key, file.getvalue())
    cache.save()
    return vector


def pool_of_vectors(pool: Pool, name: str, vectors: NDArray[np.float32]) -> Pool:
    """Return a pool of the given Bs, (count, N), on the same A and without keys."""
    manifest = pool.manifest
    members = tuple(
        Member(name=f"{name}-{i}", title=f"{name} {i}", rank=manifest.rank, alpha=manifest.alpha)
        for i in range(len(vectors))
    )
    # The gate has an entry for each member of the pool that this one stands beside, and nothing here chooses by it.
    made = replace(
        manifest, name=name, title=name, members=members, encoder=None, gate=Gate(), rejected=(), tensors_sha256=""
    )
    return Pool.shared(made, vectors, a=None if manifest.a_seed is not None else pool.a)


def random_pool(pool: Pool, seed: int) -> Pool:
    """Return a pool of random Bs, each matrix as long (Frobenius norm) as the member's own."""
    manifest = pool.manifest
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.float32]] = []
    for own in pool.b:
        parts = {}
        for target, matrix in split_b(own, manifest.targets, manifest.rank).items():
            noise = rng.standard_normal(matrix.shape)
            length = float(np.linalg.norm(matrix)) / max(float(np.linalg.norm(noise)), 1e-12)
            parts[target] = np.asarray(noise * length, np.float32)
        rows.append(join_b(parts, manifest.targets, manifest.rank))
    return pool_of_vectors(pool, "random-b", np.stack(rows))
