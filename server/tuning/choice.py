"""How a server does its work: what the search chooses, and what an engine is told of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

Overlap: TypeAlias = Literal["none", "dual"]

MAX_BLENDS = 4
"""Blends in one step where nothing else is said, as in the scheduler's limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedSettings:
    """One way to work.

    Args:
        n_batch: most tokens in a step.
        n_seq_max: most requests computed together.
        threads: compute threads; those of decoding where the two overlap.
        nano: calls, or graphs, that a full step is cut into.
        kv_unified: whether requests share the cells of the cache.
        quantum: tokens that a blend computes before the next one's turn; 0 is one step.
        max_blends: most blends in one step.
        overlap: "dual" reads prompts and writes answers at the same time, on cores of their own.
        prefill_threads: compute threads of reading where the two overlap.
    """

    n_batch: int
    n_seq_max: int
    threads: int
    nano: int = 1
    kv_unified: bool = True
    quantum: int = 0
    max_blends: int = MAX_BLENDS
    overlap: Overlap = "none"
    prefill_threads: int | None = None

    def __post_init__(self) -> None:
        for key in ("n_batch", "n_seq_max", "threads", "nano", "max_blends"):
            if type(getattr(self, key)) is not int or getattr(self, key) < 1:
                raise ConfigError(key, f"must be a whole number of at least 1, not {getattr(self, key)!r}")
        if type(self.quantum) is not int or self.quantum < 0:
            raise ConfigError("quantum", f"must be a whole number of at least 0, not {self.quantum!r}")
        if (self.overlap == "dual") != (self.prefill_threads is not None):
            raise ConfigError("prefill_threads", "belongs to the overlap 'dual', and is needed there")

    @property
    def n_ubatch(self) -> int:
        """Most tokens in one graph."""
        return -(-self.n_batch // self.nano)

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"batch {self.n_batch}", f"sequences {self.n_seq_max}", f"threads {self.threads}"]
        if self.nano > 1:
            parts.append(f"nano-batches {self.nano}")
        if not self.kv_unified:
            parts.append("split cache")
        if self.quantum:
            parts.append(f"quantum {self.quantum}")
        if self.max_blends != MAX_BLENDS:
            parts.append(f"blends a step {self.max_blends}")
        if self.overlap != "none":
            parts.append(f"overlap {self.overlap}, {self.prefill_threads} threads for prompts")
        return ", ".join(parts)


def engine_arguments(choice: TunedSettings, accepted: Collection[str]) -> dict[str, Any]:
    """Return the choice as keyword arguments of an engine that takes those named `accepted`.

    An engine that does not know a knob works as it would without a search.
    """
    told: dict[str, Any] = {
        "n_batch": choice.n_batch,
        "n_ubatch": choice.n_ubatch,
        "nano_batches": choice.nano,
        "n_seq_max": choice.n_seq_max,
        "threads": choice.threads,
        "kv_unified": choice.kv_unified,
        "quantum": choice.quantum,
        "max_blends": choice.max_blends,
        "overlap": choice.overlap,
        "prefill_threads": choice.prefill_threads,
    }
    if "overlap" not in accepted:
        # Without it, all that compute do so in one place.
        told["threads"] = choice.threads + (choice.prefill_threads or 0)
    return {name: value for name, value in told.items() if name in accepted}
