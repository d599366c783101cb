"""The architectures that the graph is built for, and the sizes that a model file gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.models import GgufInfo
    from crayon.server.engines.openvino.weights import Weights


@dataclass(frozen=True, slots=True)
class Architecture:
    """What distinguishes one from another. Biases are added wherever the file has any.

    Attributes:
        interleaved: whether rotary positions turn numbers 0 and 1, 2 and 3, ... of a head; else those half a head
            apart. The graph knows the second alone: the rows of the first are put in its order.
        head_norms: whether queries and keys are normalised, each head for itself.
    """

    interleaved: bool = False
    head_norms: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(interleaved=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(head_norms=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model's sizes.

    Attributes:
        architecture: as the file calls it.
        layers: blocks.
        width: of the residual stream.
        heads: of queries, and
        kv_heads: of keys and values, each of `head_size` numbers.
        head_size: numbers of a head.
        vocab: rows of the logits.
        context: tokens that the model was made for.
        epsilon: of the norms.
        rope_base: of the rotary positions' frequencies, and
        rope_factor: what positions are divided by.
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    context: int
    epsilon: float
    rope_base: float
    rope_factor: float

    def head_order(self, heads: int) -> NDArray[np.int64]:
        """Return the rows of an interleaved query or key matrix in the order of halves."""
        within = np.arange(self.head_size).reshape(-1, 2).T.reshape(-1)
        return (np.arange(heads)[:, None] * self.head_size + within).reshape(-1)


def read_sizes(weights: Weights) -> Sizes:
    """Return the sizes of a model that a graph can be built for.

    Raises:
        ModelFileError: its architecture is another, or something in it is not known here; names it.
    """
    info, path = weights.info, weights.path
    name = info.architecture
    if name not in ARCHITECTURES:
        raise ModelFileError(
            f"{path}: its architecture is {name!r}, and the engine openvino knows {', '.join(ARCHITECTURES)}: "
            "take the engine llama.cpp"
        )
    reader = _Reader(path, info)
    reader.refuse_unknown()
    heads = reader.whole("attention.head_count")
    width = reader.whole("embedding_length")
    head_size = reader.whole("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if reader.whole(key, head_size) != head_size:
            raise reader.wrong(key, f"the size of a head, {head_size}, in all that this engine knows")
    return Sizes(
        architecture=name,
        layers=reader.whole("block_count"),
        width=width,
        heads=heads,
        kv_heads=reader.whole("attention.head_count_kv", heads),
        head_size=head_size,
        vocab=weights.shape("token_embd.weight")[0],
        context=reader.whole("context_length"),
        epsilon=reader.number("attention.layer_norm_rms_epsilon"),
        rope_base=reader.number("rope.freq_base", 10_000.0),
        rope_factor=reader.number("rope.scaling.factor", 1.0) if reader.text("rope.scaling.type") == "linear" else 1.0,
    )


class _Reader:
    """Reads the keys of an architecture."""

    def __init__(self, path: Path, info: GgufInfo) -> None:
        self._path, self._info = path, info

    def refuse_unknown(self) -> None:
        scaling = self.text("rope.scaling.type")
        if scaling not in (None, "none", "linear"):
            raise self.wrong("rope.scaling.type", "none or linear in all that this engine knows")
        if self.whole("expert_count", 0):
            raise self.wrong("expert_count", "0: this engine has no mixtures of experts")
        for key in ("attention.clamp_kqv", "attention.scale", "logit_scale", "residual_scale", "embedding_scale"):
            if self._value(key):
                raise self.wrong(key, "absent in all that this engine knows")

    def text(self, key: str) -> str | None:
        value = self._value(key)
        return value if isinstance(value, str) else None

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._value(key)
        if value is None and f"{self._info.architecture}.{key}" not in self._info.arrays and default is not None:
            return default
        if type(value) is not int:
            raise self.wrong(key, "one whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float):
            raise self.wrong(key, "a number")
        return float(value or 0.0)

    def wrong(self, key: str, wanted: str) -> ModelFileError:
        name = f"{self._info.architecture}.{key}"
        return ModelFileError(
            f"{self._path}: {name} is {self._value(key)!r}, and must be {wanted}: take the engine llama.cpp"
        )

    def _value(self, key: str) -> str | int | float | bool | None:
        return self._info.metadata.get(f"{self._info.architecture}.{key}")
