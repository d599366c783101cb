"""One adapter from several: exactly the weighted sum of what each of them adds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.lora import LoraTensors
from crayon.adapters.shared_a import split_b
from crayon.errors import AdapterError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.lora import Matrix
    from crayon.adapters.pool import Pool
    from crayon.completion import Blend

MAX_SUM = 4.0
"""Sum of the weights' absolute values: adapters add up, and beyond a few times their size the model only babbles."""


def check_weights(pool: Pool, weights: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the weights, (K,). All zero is allowed, and means the base.

    Raises:
        InvalidRequestError: not K finite numbers, or their absolute values sum to more than 4.
    """
    field = "blend.weights"
    if len(weights) != len(pool):
        raise InvalidRequestError(field, f"are {len(weights)}, the pool {pool.id} has {len(pool)} members")
    for i, weight in enumerate(weights):
        if not math.isfinite(weight):
            raise InvalidRequestError(f"{field}[{i}]", "must be finite")
    total = sum(abs(float(weight)) for weight in weights)
    if total > MAX_SUM:
        raise InvalidRequestError(
            field, f"sum to {total:g} (absolute values), at most {MAX_SUM:g} make sense; scale them to sum to 1"
        )
    return np.asarray(weights, np.float32)


def check_blend(pools: Mapping[str, Pool], blend: Blend) -> tuple[Pool, NDArray[np.float32]]:
    """Return the pool that a request names, and its weights, (K,); `pools` are by their ids.

    Raises:
        AdapterError: no such pool is here, or it has another number of members.
        InvalidRequestError: as `check_weights`.
    """
    pool = pools.get(blend.pool_id)
    if pool is None:
        known = ", ".join(map(repr, pools)) or "none"
        raise AdapterError(f"there is no pool {blend.pool_id!r} for this model; there is: {known}")
    if len(blend.weights) != len(pool.names):
        raise AdapterError(
            f"pool {pool.id!r} has {len(pool.names)} members, but the blend has {len(blend.weights)} weights"
        )
    return pool, check_weights(pool, blend.weights)


def blend_vector(pool: Pool, weights: Sequence[float] | NDArray[np.floating]) -> Matrix:
    """Return the blended B of a shared pool, (N,), for `AdapterImage.fill`: one vector-matrix product.

    Raises:
        InvalidRequestError: as `check_weights`.
        AdapterError: the pool is an independent one.
    """
    checked = check_weights(pool, weights)
    used = np.flatnonzero(checked)
    if len(used) == 1:  # as most users' blends are: the other members need not be read
        return np.asarray(pool.b[used[0]] * checked[used[0]], np.float32)
    return np.asarray(checked @ pool.b, np.float32)


def blend(pool: Pool, weights: Sequence[float] | NDArray[np.floating]) -> LoraTensors:
    """Return the one adapter that adds the weighted sum of what the members add.

    Members that share A keep their rank. Independent ones are put side by side, so that the ranks of those with a
    weight other than 0 add up; `truncate` makes them smaller.

    Raises:
        InvalidRequestError: as `check_weights`.
    """
    if pool.manifest.kind == "shared":
        parts = split_b(blend_vector(pool, weights), pool.manifest.targets, pool.manifest.rank)
        return LoraTensors({name: (pool.a[name], part) for name, part in parts.items()}, pool.manifest.scale)
    checked = check_weights(pool, weights)
    # Where all weights are 0 one member stands there with nothing, since an adapter without matrices is none.
    used = [int(k) for k in np.flatnonzero(checked)] or [0]
    members = [(float(checked[k]), pool.member(k)) for k in used]
    tensors: dict[str, tuple[Matrix, Matrix]] = {}
    for target in pool.manifest.targets:
        parts_of = list(_parts(members, target.name))
        if parts_of:
            a = np.concatenate([each for each, _ in parts_of], axis=0)
            b = np.concatenate([each for _, each in parts_of], axis=1)
            tensors[target.name] = (a, b)
    return LoraTensors(tensors, 1.0)


def _parts(members: list[tuple[float, LoraTensors]], target: str) -> Iterator[tuple[Matrix, Matrix]]:
    """Yield A and weighted B of each member that changes `target`."""
    for weight, lora in members:
        if target in lora.tensors:
            a, b = lora.tensors[target]
            yield a, np.asarray(b * np.float32(weight * lora.scale), np.float32)


def truncate(lora: LoraTensors, rank: int) -> tuple[LoraTensors, float]:
    """Return the best adapter of at most this rank in every matrix, and the share of energy that it loses.

    The energy is the sum of the squared Frobenius norms of all changes; the share is from 0 to 1.

    Raises:
        AdapterError: `rank` is below 1.
    """
    if rank < 1:
        raise AdapterError(f"rank is {rank}; an adapter has at least rank 1")
    tensors: dict[str, tuple[Matrix, Matrix]] = {}
    lost = total = 0.0
    for name, (a, b) in lora.tensors.items():
        # In double precision: what is lost may be a millionth of what is kept.
        rows, right = np.linalg.qr(a.T.astype(np.float64))
        columns, left = np.linalg.qr(b.astype(np.float64))
        u, s, v = np.linalg.svd(left @ right.T, full_matrices=False)
        energy = np.square(s)
        total += float(energy.sum())
        lost += float(energy[rank:].sum())
        root = np.sqrt(s[:rank])
        if a.shape[0] <= rank:
            tensors[name] = (a, b)
        else:
            first = np.ascontiguousarray((rows @ (v[:rank].T * root)).T, np.float32)
            second = np.ascontiguousarray(columns @ (u[:, :rank] * root), np.float32)
            tensors[name] = (first, second)
    return LoraTensors(tensors, lora.scale), lost / total if total else 0.0
