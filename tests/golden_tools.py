"""The committed models, adapters and logits that `make golden` writes, and llama.cpp's logits to compare with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters import MemoryFile, gguf_bytes
from crayon.adapters.formats import BaseShapes, read_peft
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from crayon.adapters import LoraTensors

FOLDER = Path(__file__).resolve().parent / "golden"
ARCHITECTURES = ("llama", "qwen2")
SINGLE = ("plain", "rslora", "patterns", "partial", "shared-0")
# Logits span tens; keys and values are float16 in llama.cpp's cache. A wrong adapter is off by whole units.
CLOSE = 0.06


@dataclass(frozen=True)
class Golden:
    """One architecture: `tokens` (prompts, n), `logits` by adapter or blend, each (prompts, n, vocabulary)."""

    folder: Path
    shapes: BaseShapes
    tokens: NDArray[np.int32]
    logits: Mapping[str, NDArray[np.float32]]
    blends: Mapping[str, Mapping[str, float]]

    @classmethod
    def load(cls, architecture: str) -> Golden:
        folder = FOLDER / architecture
        with np.load(folder / "logits.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        tokens = arrays.pop("tokens")
        blends = json.loads((folder / "weights.json").read_text())
        return cls(folder, BaseShapes.read(folder / "base.gguf"), tokens, arrays, blends)

    @property
    def model(self) -> Path:
        return self.folder / "base.gguf"

    def adapter(self, name: str) -> LoraTensors:
        return read_peft(self.folder / name, self.shapes)

    def run(self, lora: LoraTensors | bytes | None) -> NDArray[np.float32]:
        """Logits of llama.cpp, as `logits`."""
        with Model(self.model) as model, Context(model, n_ctx=64, n_batch=64, threads=1) as context:
            if lora is None:
                return self._decode(context)
            data = lora if isinstance(lora, bytes) else gguf_bytes(lora, self.shapes.architecture)
            with MemoryFile(data) as file, Adapter(model, file.path) as adapter:
                context.set_adapters([(adapter, 1.0)])
                return self._decode(context)

    def _decode(self, context: Context) -> NDArray[np.float32]:
        found = []
        for prompt in self.tokens:
            context.clear()
            batch = Batch(len(prompt))
            rows = batch.add(prompt.tolist(), 0, 0, "all")
            context.decode(batch)
            found.append([context.logits(row).copy() for row in rows])
        return np.array(found)
