"""What an evaluation of the router is to cover."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from crayon.errors import InvalidRequestError
from crayon.lab.eval.settings import SAMPLES, UNSEEN

# Half of a user's queries are of these: other intents of the same data set, and other data sets.
STRANGERS = ("arc_challenge", "social_iqa", "strategyqa", "openbookqa")
# What a calibration knows of strangers: train items of data sets that no user's traffic holds.
KNOWN_STRANGERS = ("open_trivia", "piqa", "mmlu_other", "winogrande")
INTENTS = "clinc150"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """How much to measure.

    Args:
        users: most users of tasks in the pool (0: all).
        unseen: (dataset, task) of the users whose task no member knows.
        items: queries of a user: half of the own task, half strangers.
        known: strangers that a calibration has, all together.
        draws: how often samples are drawn.
        samples: how many samples a user has.
        strangers: data sets that strangers are from, beside other tasks of `intents`.
        known_strangers: data sets that calibrations have strangers from; beside other tasks of `intents`.
        intents: the data set whose tasks are told apart by the scope gate.
        error: the device error that is promised in the test of the promise, and
        confidence: its confidence.
        promises: how often that test draws a calibration set, and
        cases: of how many queries.
        seed: of every draw.
        split: where queries come from: "test" to measure, "train" to tune with (then never a sample or known stranger;
            the pool has learnt from train items of its own tasks, so the device looks better there).

    Raises:
        InvalidRequestError: a value is out of range.
    """

    users: int = 5
    unseen: tuple[tuple[str, str], ...] = UNSEEN
    items: int = 100
    known: int = 40
    draws: int = 3
    samples: int = SAMPLES
    strangers: tuple[str, ...] = STRANGERS
    known_strangers: tuple[str, ...] = KNOWN_STRANGERS
    intents: str = INTENTS
    error: float = 0.2
    confidence: float = 0.9
    promises: int = 200
    cases: int = 200
    seed: int = 0
    split: str = "test"

    def __post_init__(self) -> None:
        for field, value, least in (
            ("--users", self.users, 0),
            ("--items", self.items, 10),
            ("--draws", self.draws, 1),
            ("--samples", self.samples, 4),
        ):
            if value < least:
                raise InvalidRequestError(field, f"must be at least {least}")
        if self.split not in {"test", "train"}:
            raise InvalidRequestError("split", f"must be test or train, not {self.split!r}")

    @classmethod
    def quick(cls, **values: Any) -> RouteSettings:
        """Return settings for about a quarter of an hour on two cores; `values` take precedence."""
        return replace(cls(items=50, known=24, draws=2), **values)
