"""What an evaluation is to cover."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from crayon.errors import InvalidRequestError

GROUPS = ("in_pool", "unseen", "mixed", "far")
CONTROLS = (
    "base",
    "combined",
    "fewshot",
    "all_data",
    "top1",
    "top1_mass",
    "uniform",
    "uniform_group",
    "fixed",
    "lorahub",
    "fresh",
    "random_b",
    "own",
)
QUICK_CONTROLS = ("base", "combined", "all_data", "top1", "top1_mass", "uniform", "uniform_group", "own")
FAR_CONTROLS = ("base", "combined", "all_data")
UNSEEN = (("clinc150", "travel"), ("clinc150", "credit_cards"), ("clinc150", "auto_and_commute"))
FAR = ("arc_challenge", "strategyqa", "openbookqa", "medqa_us", "cosmosqa")
SAMPLES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """How much to measure.

    Args:
        groups: which groups of tasks.
        controls: what stands beside the blend; "combined" is the customisation as its user gets it, "own" is perfect
            choice for users of several tasks.
        items: most test items of a task.
        extra: most further items of an unseen task, from its train split.
        draws: how often samples are drawn.
        control_draws: how often for the controls that cost most (combined, fewshot, lorahub, fresh, random_b).
        samples: how many samples a user has; the first is what everything is compared at, the rest are for the curve.
        pairs: pairs of tasks for users of two tasks.
        tasks: most tasks in pool (0: all).
        unseen: (dataset, task) of the unseen users, and
        far: data sets of the far ones.
        seed: of every draw.

    Raises:
        InvalidRequestError: a value is out of range, or a group or control is unknown.
    """

    groups: tuple[str, ...] = GROUPS
    controls: tuple[str, ...] = CONTROLS
    items: int = 100
    extra: int = 60
    draws: int = 5
    control_draws: int = 5
    samples: tuple[int, ...] = (SAMPLES,)
    pairs: int = 4
    tasks: int = 0
    unseen: tuple[tuple[str, str], ...] = UNSEEN
    far: tuple[str, ...] = FAR
    seed: int = 0

    def __post_init__(self) -> None:
        for field, given, known in (("--only", self.groups, GROUPS), ("--controls", self.controls, CONTROLS)):
            for name in given:
                if name not in known:
                    raise InvalidRequestError(field, f"{name!r} is unknown; there are {', '.join(known)}")
        if not self.groups:
            raise InvalidRequestError("--only", f"names no group; there are {', '.join(GROUPS)}")
        for field, value, least in (
            ("--items", self.items, 2),
            ("--extra", self.extra, 0),
            ("--draws", self.draws, 1),
            ("--control-draws", self.control_draws, 1),
            ("--samples", min(self.samples, default=0), 1),
        ):
            if value < least:
                raise InvalidRequestError(field, f"must be at least {least}")
        if max(self.samples) > 200:
            raise InvalidRequestError("--samples", "must be at most 200: tasks have few items more")

    def of_draws(self, control: str) -> int:
        """Return how many draws a control has."""
        costly = control in ("combined", "fewshot", "lorahub", "fresh", "random_b")
        return min(self.draws, self.control_draws) if costly else self.draws

    @classmethod
    def quick(cls, **values: Any) -> EvalSettings:
        """Return settings for about a quarter of an hour on two cores; `values` take precedence."""
        base = cls(controls=QUICK_CONTROLS, items=30, extra=0, draws=2, control_draws=1, pairs=3, tasks=8)
        return replace(base, **values)
