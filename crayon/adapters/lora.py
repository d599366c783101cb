"""One concrete adapter in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crayon.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

Matrix: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LoraTensors:
    """Target to (A, B): A (rank, inputs), B (outputs, rank), float32; the weight changes by scale * B @ A.

    Rows are in llama.cpp's order. Ranks may differ between targets.

    Raises:
        AdapterError: no target, or A and B of one are not float32 matrices that can be multiplied,
            or the scale is not finite.
    """

    tensors: Mapping[str, tuple[Matrix, Matrix]]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.tensors:
            raise AdapterError("the adapter changes no weight")
        if not math.isfinite(self.scale):
            raise AdapterError(f"the adapter's scale is {self.scale}; it must be finite")
        for name, (a, b) in self.tensors.items():
            if a.dtype != np.float32 or b.dtype != np.float32:
                raise AdapterError(f"{name}: A and B must be float32, they are {a.dtype} and {b.dtype}")
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
                raise AdapterError(f"{name}: A {a.shape} and B {b.shape} must be (rank, inputs) and (outputs, rank)")

    @property
    def rank(self) -> int:
        """The largest rank of a target."""
        return max(len(a) for a, _ in self.tensors.values())

    def delta(self, target: str) -> Matrix:
        """Return what is added to the weight `target`, (outputs, inputs)."""
        a, b = self.tensors[target]
        return np.asarray(self.scale * (b @ a), np.float32)
