"""What a device engine holds in memory: everything that computes, and nothing that holds the engine itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crayon.blending import PoolBlends
    from crayon.device.compute import Compute
    from crayon.device.encoder import Encoder
    from crayon.llama.model import Model


@dataclass(slots=True)
class OpenModel:
    """The model and what runs on it. The worker's thread holds this and not the engine, whose end it thus sees."""

    model: Model
    compute: Compute
    encoder: Encoder | None = None
    blends: PoolBlends | None = None

    def abort(self) -> None:
        """Stop the running step at once, from any thread."""
        self.compute.abort()
        if self.encoder is not None:
            self.encoder.abort()

    def clear_abort(self) -> None:
        """Let steps run again."""
        self.compute.clear_abort()
        if self.encoder is not None:
            self.encoder.clear_abort()

    def free(self) -> None:
        """Free all of it; nothing runs any more."""
        if self.encoder is not None:
            self.encoder.close()
        self.compute.close()
        if self.blends is not None:
            self.blends.close()
        self.model.close()
