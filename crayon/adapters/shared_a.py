"""The frozen A of a pool, and the layout of the Bs that were trained on it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.adapters.lora import Matrix
    from crayon.adapters.manifest import Target


def random_a(seed: int, target: str, rank: int, inputs: int) -> Matrix:
    """Return (rank, inputs) random signs over sqrt(inputs): the same on every machine, in every version."""
    count = rank * inputs
    stream = hashlib.shake_256(f"crayon-a-1|{seed}|{target}".encode()).digest((count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), count=count, bitorder="little")
    signs = 2.0 * bits.reshape(rank, inputs) - 1.0
    return np.ascontiguousarray(signs / np.sqrt(inputs), np.float32)


def b_size(targets: Sequence[Target], rank: int) -> int:
    """Return N, the numbers in all Bs of one member."""
    return sum(target.outputs for target in targets) * rank


def split_b(vector: Matrix, targets: Sequence[Target], rank: int) -> dict[str, Matrix]:
    """Return (N,) as one view of (outputs, rank) for each target.

    Raises:
        AdapterError: the vector has another length.
    """
    if vector.shape != (b_size(targets, rank),):
        raise AdapterError(f"B has shape {vector.shape}, expected ({b_size(targets, rank)},)")
    parts: dict[str, Matrix] = {}
    start = 0
    for target in targets:
        end = start + target.outputs * rank
        parts[target.name] = vector[start:end].reshape(target.outputs, rank)
        start = end
    return parts


def join_b(parts: dict[str, Matrix], targets: Sequence[Target], rank: int) -> Matrix:
    """Return the Bs of one member, (outputs, rank) each, as one contiguous (N,).

    Raises:
        AdapterError: a target is missing or has another shape.
    """
    for target in targets:
        part = parts.get(target.name)
        if part is None or part.shape != (target.outputs, rank):
            shape = "missing" if part is None else part.shape
            raise AdapterError(f"{target.name}: B is {shape}, expected ({target.outputs}, {rank})")
    return np.concatenate([np.asarray(parts[target.name], np.float32).ravel() for target in targets])
