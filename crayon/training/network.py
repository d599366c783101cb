"""The base model of a pool in torch: frozen, with one low-rank change on top that can be trained.

transformers computes the layers. Three things are ours. The change reads one vector of all B's, so that one tensor is
what is trained, blended and stored. It may differ between the rows of a batch. And keys and values of a common start
(the template's system message, or a prompt under many continuations) are computed once for all rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from crayon.adapters.formats.matrices import module_name
from crayon.errors import AdapterError, ConfigError
from crayon.training.dequantized import dequantized

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.adapters.manifest import Target


class Linear:
    """A frozen linear layer plus `B A x`; takes the place of a torch module's `forward`."""

    def __init__(self, module: Any, dtype: Any) -> None:
        self.weight = module.weight.data.to(dtype).contiguous()
        self.bias = None if module.bias is None else module.bias.data.float()
        module.weight.data = self.weight  # the float32 copy is not needed any more
        self.a: Any = None  # (rank, inputs)
        self.b: Any = None  # (outputs, rank), or (rows, outputs, rank) where rows of a batch differ

    def __call__(self, x: Any) -> Any:
        """Return the layer's output, float32."""
        y = functional.linear(x.to(self.weight.dtype), self.weight).float()
        if self.bias is not None:
            y = y + self.bias
        if self.b is None:
            return y
        low = functional.linear(x, self.a)
        return y + (functional.linear(low, self.b) if self.b.dim() == 2 else low @ self.b.transpose(1, 2))


@dataclass(slots=True)
class KeyValues:
    """Keys and values of a stretch of tokens, behind those of `before`; what transformers calls a cache.

    `rows` says which row of `before` each row of this continues; None: the same one, or its only one.
    """

    before: KeyValues | None = None
    rows: Any = None
    kept: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Keep a layer's keys and values, (rows, heads, tokens, size); return those of all tokens so far."""
        self.kept[layer] = (keys, values)
        return self.all(layer)

    def all(self, layer: int) -> tuple[Any, Any]:
        """Return keys and values of a layer, from the very start."""
        if self.before is None:
            return self.kept[layer]
        keys, values = (
            torch.cat([self._row_for_row(earlier, len(own)), own], 2)
            for earlier, own in zip(self.before.all(layer), self.kept[layer], strict=True)
        )
        return keys, values

    def _row_for_row(self, earlier: Any, rows: int) -> Any:
        if self.rows is not None and len(earlier) > 1:
            earlier = earlier[self.rows]
        return earlier.expand(rows, -1, -1, -1)

    def get_seq_length(self, *_: Any) -> int:
        """Return 0: positions and masks are given."""
        return 0


class Network:
    """A base model's layers and head.

    Args:
        path: a GGUF file, best the prepared one that the device runs; it is dequantized.
        device: where torch computes.
        dtype: type of the frozen weights in multiplications ("auto": bfloat16 where this machine multiplies it).

    Raises:
        ModelFileError: transformers cannot read the file.
        ConfigError: torch has no such device.
    """

    def __init__(self, path: Path, *, device: str = "cpu", dtype: str = "auto") -> None:
        self.device = _device(device)
        model = dequantized(path)
        self.dtype = _dtype(dtype, self.device)
        model.eval().requires_grad_(requires_grad=False).to(self.device)
        self._model = model.model
        self.layers = len(self._model.layers)
        self.width = int(model.config.hidden_size)
        self._head = model.lm_head.weight.data.to(self.dtype)
        self._linear: dict[str, Linear] = {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                module.forward = self._linear[name] = Linear(module, self.dtype)
        self._targets: tuple[tuple[Linear, Target], ...] = ()
        self._rank, self._scale = 1, 1.0
        self.rows = 1  # of a batch, where each has B's of its own

    def shape(self, target: str) -> tuple[int, int]:
        """Return rows and columns of a matrix by its GGUF name.

        Raises:
            AdapterError: the model has no such matrix.
        """
        linear = self._linear.get(module_name(target) or "")
        if linear is None:
            raise AdapterError(f"targets: the model has no matrix {target}")
        return (int(linear.weight.shape[0]), int(linear.weight.shape[1]))

    def adapt(self, targets: Sequence[Target], rank: int, scale: float, a: dict[str, NDArray[np.float32]]) -> None:
        """Say which matrices change, with the A of each, (rank, inputs); `apply` brings the B's."""
        for linear in self._linear.values():
            linear.a = linear.b = None
        found = []
        for target in targets:
            linear = self._linear[module_name(target.name) or ""]
            linear.a = torch.from_numpy(np.array(a[target.name], np.float32)).to(self.device)
            found.append((linear, target))
        self._targets, self._rank, self._scale = tuple(found), rank, scale

    @property
    def size(self) -> int:
        """N, the numbers in all B's."""
        return self._rank * sum(target.outputs for _, target in self._targets)

    @property
    def a_size(self) -> int:
        """M, the numbers in all A's."""
        return self._rank * sum(target.inputs for _, target in self._targets)

    def apply(self, vector: Any | None) -> None:
        """Change the matrices: None for the plain base, (N,) B's for all rows, (rows, N) for each row its own.

        (M + N,): A's, (rank, inputs) each, that take the place of the ones given to `adapt`, then B's.
        """
        if vector is not None and vector.shape[-1] == self.a_size + self.size:
            start = 0
            for linear, target in self._targets:
                end = start + self._rank * target.inputs
                linear.a = vector[start:end].reshape(self._rank, target.inputs)
                start = end
            vector = vector[start:]
        self.rows = 1 if vector is None or vector.dim() == 1 else len(vector)
        start = 0
        for linear, target in self._targets:
            end = start + self._rank * target.outputs
            if vector is None:
                linear.b = None
            else:
                shape = (*vector.shape[:-1], target.outputs, self._rank)
                linear.b = vector[..., start:end].reshape(shape) * self._scale
            start = end

    def embed(self, tokens: Any) -> Any:
        """Return the input states of token ids (rows, tokens)."""
        return self._model.embed_tokens(tokens)

    def run(self, states: Any, positions: Any, visible: Sequence[Any], past: KeyValues, first: int, end: int) -> Any:
        """Compute layers `first` to `end` - 1.

        Args:
            states: (rows, tokens, width).
            positions: (rows, tokens).
            visible: for each stretch in `past.before`, which of its tokens may be looked at: bool (rows or 1, tokens).
            past: takes the keys and values of these tokens, and brings those before.
            first: the first layer to compute.
            end: the layer to stop before.
        """
        rows, tokens = positions.shape
        own = torch.ones(tokens, tokens, dtype=torch.bool, device=self.device).tril()
        earlier = (part.expand(rows, -1)[:, None, None].expand(-1, 1, tokens, -1) for part in visible)
        mask = torch.cat([*earlier, own.expand(rows, 1, -1, -1)], 3)
        rotary = self._model.rotary_emb(states, positions)
        for layer in self._model.layers[first:end]:
            out = layer(states, attention_mask=mask, position_embeddings=rotary, past_key_values=past)
            states = out[0] if isinstance(out, tuple) else out
        return states

    def logits(self, states: Any) -> Any:
        """Return float32 logits of last-layer states (n, width)."""
        return functional.linear(self._model.norm(states).to(self._head.dtype), self._head).float()


def _device(name: str) -> Any:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without that kind
        raise ConfigError("device", f"torch cannot compute on {name!r} here: {error}") from None
    return device


def _dtype(name: str, device: Any) -> Any:
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cpu":
        return torch.bfloat16
    # Without hardware for it, bfloat16 is far slower than float32.
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32
