"""Answers turned into points: which way of scoring, and right or wrong for every draw and item."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from crayon.customising.expectation import LONG_CHOICE_WORDS
from crayon.eval.matching import is_right

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crayon.eval.cases import Case
    from crayon.eval.subject import Answer

    Points: TypeAlias = NDArray[np.float64]

Metric: TypeAlias = Literal["scored", "free"]
METRICS: tuple[Metric, ...] = ("scored", "free")
WORKLOADS: dict[Metric, str] = {"scored": "scored option texts", "free": "greedy free generation"}
SCORING_NOTE = (
    "options by the sum of their tokens' log-probabilities, without the end of the answer; per token where options "
    f"have more than {LONG_CHOICE_WORDS:g} words on average; the base, alone or with examples, by whichever of the "
    "two is better on the task"
)
_BETTER = ("base", "fewshot")


@dataclass(slots=True)
class Outcome:
    """All answers of one variant, by draw and item, and where the variant is the plain base."""

    answers: list[list[Answer]] = field(default_factory=list)
    plain: list[list[bool]] = field(default_factory=list)


class CaseResults:
    """What one user's variants answered."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.outcomes: dict[str, Outcome] = {}

    def points(self, variant: str, metric: Metric) -> Points | None:
        """Return 100 or 0 of each draw and item, shape (draws, items); None where there is nothing to score."""
        outcome = self.outcomes.get(variant)
        if outcome is None or not outcome.answers:
            return None
        if metric == "free":
            items = self.case.items
            right = [[is_right(a.text, item) for a, item in zip(row, items, strict=True)] for row in outcome.answers]
            return 100.0 * np.array(right, np.float64)
        if not all(item.choices and item.answer is not None for item in self.case.items):
            return None
        return self._scored(variant, outcome)

    def _scored(self, variant: str, outcome: Outcome) -> Points:
        by_sum, by_mean = self._by(outcome, "sums"), self._by(outcome, "means")
        plain = np.array(outcome.plain)
        points = np.empty_like(by_sum)
        for task in set(self.case.of_task):
            own = np.array(self.case.of_task) == task
            if variant in _BETTER:
                points[:, own] = max(by_sum[:, own], by_mean[:, own], key=np.mean)
                continue
            points[:, own] = (by_mean if self._long(own) else by_sum)[:, own]
            if "base" in self.outcomes:
                # Where the blend is the base it is scored as the base is: else doing nothing would look like harm.
                base = self.outcomes["base"]
                better = self._by(base, "means")[:, own].mean() > self._by(base, "sums")[:, own].mean()
                points[plain & own] = (by_mean if better else by_sum)[plain & own]
        return points

    def _by(self, outcome: Outcome, field: Literal["sums", "means"]) -> Points:
        """Return the points if options are compared by this field."""
        right = [
            [
                not answer.too_long and int(np.argmax(getattr(answer, field))) == item.answer
                for answer, item in zip(row, self.case.items, strict=True)
            ]
            for row in outcome.answers
        ]
        return 100.0 * np.array(right, np.float64)

    def _long(self, own: NDArray[np.bool_]) -> bool:
        """Whether the options of a task are long."""
        words = [
            len(choice.split())
            for item, mine in zip(self.case.items, own, strict=True)
            if mine
            for choice in item.choices
        ]
        return float(np.mean(words)) > LONG_CHOICE_WORDS
