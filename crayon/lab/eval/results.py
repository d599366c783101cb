"""Answers turned into points: which way of scoring, and right or wrong for every draw and item."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from crayon.customising.expectation import LONG_CHOICE_WORDS, RULES, Rule
from crayon.lab.eval.matching import is_right

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crayon.lab.eval.cases import UserCase
    from crayon.lab.eval.device_runner import DeviceAnswer

    Points: TypeAlias = NDArray[np.float64]

Metric: TypeAlias = Literal["scored", "free"]
METRICS: tuple[Metric, ...] = ("scored", "free")
WORKLOADS: dict[Metric, str] = {"scored": "scored option texts", "free": "greedy free generation"}
SCORING_NOTE = (
    "options by the log-probability of their tokens and of the answer's end, or per token where they have more than "
    f"{LONG_CHOICE_WORDS:g} words on average; the base, alone or with examples, by whichever is best on the task: "
    "whole with or without the end, or per token; far tasks all as the base"
)
_BETTER = ("base", "fewshot")


@dataclass(slots=True)
class VariantAnswers:
    """All answers of one variant, by draw and item, and where the variant is the plain base."""

    answers: list[list[DeviceAnswer]] = field(default_factory=list)
    plain: list[list[bool]] = field(default_factory=list)


class CaseResults:
    """What one user's variants answered; points are asked for when all answers are there."""

    def __init__(self, case: UserCase) -> None:
        self.case = case
        self.outcomes: dict[str, VariantAnswers] = {}
        self._points: dict[tuple[str, Metric], Points | None] = {}

    def points(self, variant: str, metric: Metric) -> Points | None:
        """Return 100 or 0 of each draw and item, shape (draws, items); None where there is nothing to score."""
        if (variant, metric) not in self._points:
            self._points[variant, metric] = self._judge(variant, metric)
        return self._points[variant, metric]

    def _judge(self, variant: str, metric: Metric) -> Points | None:
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

    def _scored(self, variant: str, outcome: VariantAnswers) -> Points:
        base = self.outcomes.get("base")
        plain = np.array(outcome.plain)
        points = np.empty(plain.shape)
        for task in set(self.case.of_task):
            own = np.array(self.case.of_task) == task
            # Where the blend is the base it is scored as the base is: else doing nothing would look like harm.
            as_base = self._best(base, own) if base is not None else self._rule(own)
            if variant in _BETTER:
                rule = self._best(outcome, own)
            elif self.case.group == "far":
                rule = as_base
            else:
                rule = self._rule(own)
            points[:, own] = self._by(outcome, rule)[:, own]
            points[plain & own] = self._by(outcome, as_base)[plain & own]
        return points

    def _best(self, outcome: VariantAnswers, own: NDArray[np.bool_]) -> Rule:
        """Return the way of comparing options that gives most points on a task's items."""
        return max(RULES, key=lambda rule: float(self._by(outcome, rule)[:, own].mean()))

    def _by(self, outcome: VariantAnswers, rule: Rule) -> Points:
        """Return the points if options are compared this way."""
        right = [
            [
                not answer.too_long and int(np.argmax(values(answer, rule))) == item.answer
                for answer, item in zip(row, self.case.items, strict=True)
            ]
            for row in outcome.answers
        ]
        return 100.0 * np.array(right, np.float64)

    def _rule(self, own: NDArray[np.bool_]) -> Rule:
        return "token" if self._long(own) else "ended"

    def _long(self, own: NDArray[np.bool_]) -> bool:
        """Whether the options of a task are long."""
        words = [
            len(choice.split())
            for item, mine in zip(self.case.items, own, strict=True)
            if mine
            for choice in item.choices
        ]
        return float(np.mean(words)) > LONG_CHOICE_WORDS


def values(answer: DeviceAnswer, rule: Rule) -> list[float]:
    """Return one number for each option, the largest for the likeliest."""
    if rule == "ended":
        return [text + end for text, end in zip(answer.sums, answer.ends, strict=True)]
    return list(answer.sums if rule == "whole" else answer.means)
