"""The weight matrices of a base model: what llama.cpp and transformers call them, and how they order rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import AdapterError, AdapterMismatchError, ModelFileError
from crayon.models.gguf_file import check_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

# transformers' name inside a layer -> llama.cpp's
MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAMES = {gguf: module for module, gguf in MODULES.items()}
_MODULE = re.compile(r"model\.layers\.(0|[1-9]\d{0,4})\.([a-z_]+\.[a-z_]+)")
_TARGET = re.compile(r"blk\.(0|[1-9]\d{0,4})\.([a-z_]+)\.weight")
# llama.cpp turns pairs of neighbours in `llama` files, so its converter brings transformers' two halves of each head
# together; `qwen2` files keep transformers' order.
_NEIGHBOURS = {"llama": True, "qwen2": False}


def target_name(module: str) -> str | None:
    """Return llama.cpp's name of transformers' linear module `model.layers.N....`, None if it has none."""
    found = _MODULE.fullmatch(module)
    name = MODULES.get(found[2]) if found else None
    return None if found is None or name is None else f"blk.{found[1]}.{name}.weight"


def module_name(target: str) -> str | None:
    """Return transformers' name of the matrix `blk.N.NAME.weight`, None if it is not one of a layer's seven."""
    found = _TARGET.fullmatch(target)
    name = _NAMES.get(found[2]) if found else None
    return None if found is None or name is None else f"model.layers.{found[1]}.{name}"


def permute_rows(matrix: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows (outputs, n) of transformers' q or k in the order of a `llama` GGUF: halves of a head interleaved."""
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)


def restore_rows(matrix: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo `permute_rows`."""
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """What an adapter has to know of its base: `targets` maps a matrix to (outputs, inputs).

    Args:
        architecture: `llama` or `qwen2`.
        heads: attention heads.
        kv_heads: key and value heads, at most `heads`.
        targets: the seven linear matrices of each layer that the base has, in order of layers.
        label: for messages.
    """

    architecture: str
    heads: int
    kv_heads: int
    targets: Mapping[str, tuple[int, int]]
    label: str = "the base model"

    def __post_init__(self) -> None:
        if self.architecture not in _NEIGHBOURS:
            known = ", ".join(_NEIGHBOURS)
            raise AdapterMismatchError(
                f"{self.label} is of the architecture {self.architecture!r}; adapters can be read for {known}: "
                "how others order their rows is not known here"
            )
        if min(self.heads, self.kv_heads) < 1:
            raise ModelFileError(f"{self.label} does not say how many attention heads it has")
        for target, (outputs, _) in self.targets.items():
            heads = self._permuted(target)
            if heads and outputs % (2 * heads):
                raise ModelFileError(f"{self.label}: {outputs} rows of {target} cannot be {heads} heads of two halves")

    @classmethod
    def read(cls, path: Path) -> BaseShapes:
        """Read them from the header of a model file.

        Raises:
            ModelFileError: not a readable model.
            AdapterMismatchError: an architecture whose order of rows is not known.
        """
        info = check_model(path)
        name = info.architecture
        heads = info.metadata.get(f"{name}.attention.head_count", 0)
        kv_heads = info.metadata.get(f"{name}.attention.head_count_kv", heads)
        if not isinstance(heads, int) or not isinstance(kv_heads, int):
            raise ModelFileError(f"{path}: {name}.attention.head_count is not a whole number")
        targets = {
            f"blk.{layer}.{matrix}.weight": (tensor.shape[0], tensor.shape[1])
            for layer in range(min(info.block_count or 0, info.tensor_count))
            for matrix in MODULES.values()
            if (tensor := info.tensors.get(f"blk.{layer}.{matrix}.weight")) and len(tensor.shape) == 2
        }
        if not targets:
            raise ModelFileError(f"{path} holds none of the weight matrices that adapters change")
        return cls(name, heads, kv_heads, targets, path.name)

    def check(self, target: str, a: tuple[int, ...], b: tuple[int, ...]) -> int:
        """Return the rank of an adapter's A (rank, inputs) and B (outputs, rank) for a target.

        Raises:
            AdapterMismatchError: the base has no such matrix, or another shape of it.
            AdapterError: A and B do not belong together.
        """
        shape = self.targets.get(target)
        if shape is None:
            raise AdapterMismatchError(f"the adapter changes {target}, which {self.label} does not have")
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1:
            raise AdapterError(f"{target}: A {a} and B {b} are not (rank, inputs) and (outputs, rank)")
        if (b[0], a[1]) != shape:
            raise AdapterMismatchError(
                f"{target} is {shape[0]} x {shape[1]} in {self.label} and {b[0]} x {a[1]} in the adapter: "
                "it was made for another base model"
            )
        return a[0]

    def from_transformers(self, target: str, b: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return B (outputs, rank) of transformers with its rows in llama.cpp's order."""
        heads = self._permuted(target)
        return permute_rows(b, heads) if heads else b

    def to_transformers(self, target: str, b: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return B (outputs, rank) of llama.cpp with its rows in transformers' order."""
        heads = self._permuted(target)
        return restore_rows(b, heads) if heads else b

    def _permuted(self, target: str) -> int:
        """Return the number of heads whose rows are reordered, 0 for a matrix that is not."""
        if not _NEIGHBOURS[self.architecture]:
            return 0
        if target.endswith(".attn_q.weight"):
            return self.heads
        return self.kv_heads if target.endswith(".attn_k.weight") else 0
