"""What the engine's thread works with, apart from the engine itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crayon.blending import PoolBlends
    from crayon.llama.model import Model
    from crayon.server.engines.llama.encoder import LlamaEncoder
    from crayon.server.engines.llama.runners import SingleRunner, TwoRunners


@dataclass(slots=True)
class OpenEngine:
    """The model and what runs on it. The thread holds this and not the engine, which may be dropped without `close`."""

    model: Model
    runners: SingleRunner | TwoRunners
    encoder: LlamaEncoder | None = None
    blends: PoolBlends | None = None

    def encoder_if_any(self) -> LlamaEncoder | None:
        """Return the encoder, None while nobody has asked for embeddings."""
        return self.encoder

    def free(self) -> None:
        """Free all of it; nothing runs any more."""
        if self.encoder is not None:
            self.encoder.close()
        for runner in self.runners.runners:
            runner.context.close()
        if self.blends is not None:
            self.blends.close()
        self.model.close()
