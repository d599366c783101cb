"""What an engine can take in one step."""

from __future__ import annotations

from dataclasses import dataclass

from crayon.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """Limits of one step, declared by the engine.

    Args:
        max_tokens: most tokens in one step, at least `max_seqs` so that every decoding request fits.
        max_seqs: sequences that the engine's cache can hold at once.
        kv_capacity: tokens that the cache can hold, all sequences together.
        encode_capacity: the same for encoding, where the engine has its own cache for it; None shares it.
        max_outputs: most rows of logits in one step, at least `max_seqs`; None is `max_tokens`.
        max_slots: most sequences that the scored and encoded requests of one client may take; None is half of them.
        max_blends: most blend groups in one step. The engine reads its weights once for each.
        step_seconds: how long a step may take while somebody's answer is being written; None does not care.
        late_share: share of the steps that may take longer than `step_seconds`, for prompts to be read whole.
        first_seconds: steps may be longer, whatever `late_share`, where a prompt would else not be read within this
            time of its arrival; None: never.
        min_tokens: tokens that a step may hold whatever `step_seconds` says; below this the engine is not
            compute-bound and a smaller step is hardly faster.
        tile: a step that `step_seconds` shortens is a multiple of this, so that its size does not flicker.
        parts: engine calls that one group's tokens of a step are computed in, at most.
        quantum: tokens that a group may compute before the next one's turn comes; 0 is one step.
        spill: whether the engine can save and restore a sequence. Without it the worst case is reserved, whatever
            is predicted.
        max_idle_prefixes: most sequences of finished requests that stay in the cache for others to begin with.
        cut_limit: tokens up to which a sequence may be cut or copied in part; a longer one only as a whole. None:
            always. (0 is a memory that keeps one state of all tokens, anything else one that sees a window of them.)

    Raises:
        ConfigError: the limits contradict each other; the key names the one to change.
    """

    max_tokens: int
    max_seqs: int
    kv_capacity: int
    encode_capacity: int | None = None
    max_outputs: int | None = None
    max_slots: int | None = None
    max_blends: int = 4
    step_seconds: float | None = None
    late_share: float = 0.0
    first_seconds: float | None = None
    min_tokens: int = 16
    tile: int = 1
    parts: int = 1
    quantum: int = 0
    spill: bool = False
    max_idle_prefixes: int = 0
    cut_limit: int | None = None

    def __post_init__(self) -> None:
        for key in ("max_tokens", "max_seqs", "kv_capacity", "max_blends", "min_tokens", "tile", "parts"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, not {getattr(self, key)}")
        for key in ("quantum", "max_idle_prefixes"):
            if getattr(self, key) < 0:
                raise ConfigError(key, f"must be at least 0, not {getattr(self, key)}")
        for key, value in (("max_tokens", self.max_tokens), ("max_outputs", self.outputs)):
            if value < self.max_seqs:
                raise ConfigError(key, f"must be at least max_seqs ({self.max_seqs}), not {value}")
        if self.max_slots is not None and self.max_slots < 1:
            raise ConfigError("max_slots", f"must be at least 1, not {self.max_slots}")
        for key, seconds in (("step_seconds", self.step_seconds), ("first_seconds", self.first_seconds)):
            if seconds is not None and not seconds > 0:
                raise ConfigError(key, f"must be more than 0, not {seconds}")
        if not 0 <= self.late_share <= 1:
            raise ConfigError("late_share", f"must be from 0 to 1, not {self.late_share}")

    @property
    def outputs(self) -> int:
        """Most rows of logits in one step."""
        return self.max_tokens if self.max_outputs is None else self.max_outputs

    def capacity(self, *, encode: bool) -> int:
        """Return the tokens that the cache for this kind of work can hold."""
        return self.encode_capacity if encode and self.encode_capacity is not None else self.kv_capacity

    @property
    def slots(self) -> int:
        """Most sequences that the scored and encoded requests of one client may take."""
        return max(1, self.max_seqs // 2) if self.max_slots is None else min(self.max_slots, self.max_seqs)

    @property
    def long_slots(self) -> int:
        """Most sequences that all scored and encoded requests may take together; the others are for answers."""
        return max(self.slots, self.max_seqs - max(1, self.max_seqs // 4)) if self.max_seqs > 1 else 1
