"""What the engine's thread works with, apart from the engine itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from crayon.adapters.pool import Pool
    from crayon.blending.lease import Lease
    from crayon.completion import Blend
    from crayon.llama.model import Model
    from crayon.server.engines.llama.encoder import CentredEncoder
    from crayon.server.engines.llama.parts import StepRunners


class Blends(Protocol):
    """The pools of an engine, and what computes with their blends."""

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools, in the order given."""
        ...

    @property
    def loaded(self) -> int:
        """How many blends are loaded."""
        ...

    def normal(self, blend: Blend) -> Blend | None:
        """Return the blend, checked; None where all its weights are 0, which is the plain base."""
        ...

    def __call__(self, blend: Blend) -> Lease:
        """Return what computes with the blend, until it is released."""
        ...

    def close(self) -> None:
        """Free what is loaded. Safe to call twice."""
        ...


@dataclass(slots=True)
class OpenEngine:
    """The model and what runs on it. The thread holds this and not the engine, which may be dropped without `close`."""

    model: Model
    runners: StepRunners
    encoder: CentredEncoder | None = None
    blends: Blends | None = None

    def encoder_if_any(self) -> CentredEncoder | None:
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
