"""What an engine has done since it was opened: plain sums, so that two readings tell what happened between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from crayon.server.scheduler import Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.server.scheduler import Caps, StepPlan


@dataclass(slots=True)
class Counters:
    """Written by the engine's thread alone; read from any.

    `wall_s` is the time from a step's plan to its last result, `compute_s` that in which lanes computed, and
    `beside_s` the part of it in which the next step was planned. `room_tokens` is what the steps could have held.
    """

    steps: int = 0
    calls: int = 0
    tokens: int = 0
    room_tokens: int = 0
    decode_tokens: int = 0
    output_rows: int = 0
    blends: int = 0
    shared_tokens: int = 0
    spilled: int = 0
    restored: int = 0
    planned_ahead: int = 0
    wall_s: float = 0.0
    compute_s: float = 0.0
    beside_s: float = 0.0

    def step(self, step: StepPlan, caps: Caps, seconds: float) -> None:
        """Count a step."""
        self.steps += 1
        self.wall_s += seconds
        self.tokens += step.tokens
        self.room_tokens += caps.max_tokens if step.nano else 0
        self.blends += len({nano.blend for nano in step.nano})
        self.shared_tokens += sum(share.tokens for share in step.shares)
        for nano in step.nano:
            self.output_rows += sum(row.logits for row in nano.rows)
            if nano.resource is Resource.DECODE:
                self.decode_tokens += nano.tokens

    def computed(self, seconds: float, beside: float, calls: int) -> None:
        """Count calls that ran at the same time."""
        self.calls += calls
        self.compute_s += seconds
        self.beside_s += beside

    def as_json(self) -> dict[str, float]:
        """Return the sums by name."""
        return asdict(self)


def shares(counters: Mapping[str, float]) -> dict[str, float]:
    """Return what the sums of `as_json` come to, each from 0 to 1: where time went and how full steps were.

    `host gap` is the time of steps in which nothing was computed, `fill` the part of the steps' room that was used, and
    `planned ahead` the part of the steps that were. Empty before the first step.
    """
    if not counters["steps"] or not counters["wall_s"] or not counters["room_tokens"]:
        return {}
    return {
        "host gap": max(0.0, 1.0 - counters["compute_s"] / counters["wall_s"]),
        "fill": counters["tokens"] / counters["room_tokens"],
        "planned ahead": counters["planned_ahead"] / counters["steps"],
    }
