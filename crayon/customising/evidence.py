"""What a customisation answers with beside a blend: samples shown as earlier turns, and a closed set of answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Not only for types: records are read by their annotations.
from crayon.customising.choices import Rule  # noqa: TC001 - as above
from crayon.errors import AdapterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Which of the samples take part in a profile's answers, and how much each kind of evidence counts.

    The value of an answer a to a question q is

        model * (log p(a | examples, q) - bias[a]) + classes * f_a(q)

    where p is the model's, normalised over the answers, f the closed-form classifier of the question's embedding, and
    bias the mean of log p over the samples: what the model thinks of an answer whatever is asked (batch calibration,
    Zhou et al. 2024, here by the mean of logarithms). A softmax over the values gives the answers' probabilities.

    Args:
        examples: numbers of the samples that the prompt shows as earlier turns, first to last.
        answers: the closed set, as the user writes them; () where answers are free.
        labelled: numbers of the samples that the classifier is made from; each has one of the answers.
        model: how much the model counts.
        bias: one number for each answer.
        classes: how much the classifier counts.
        rule: how the model's log-probabilities of the answers are read.

    Raises:
        AdapterError: the fields do not belong together.
    """

    examples: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    labelled: tuple[int, ...] = ()
    model: float = 1.0
    bias: tuple[float, ...] = ()
    classes: float = 0.0
    rule: Rule = "whole"

    def __post_init__(self) -> None:
        if len(self.bias) not in (0, len(self.answers)):
            raise AdapterError(f"the evidence has {len(self.bias)} biases for {len(self.answers)} answers")
        if self.answers and (len(self.answers) < 2 or len(set(self.answers)) != len(self.answers)):
            raise AdapterError("the evidence's answers must be at least 2 different texts")
        if self.classes and not (self.labelled and self.answers):
            raise AdapterError("the evidence has a classifier without samples or answers")
        if not all(math.isfinite(number) for number in (self.model, self.classes, *self.bias)):
            raise AdapterError("the evidence holds a number that is not finite")
        if any(number < 0 for number in (*self.examples, *self.labelled)):
            raise AdapterError("the evidence names a sample by a negative number")

    def __bool__(self) -> bool:
        return bool(self.examples or self.answers)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What takes part, in words: "examples", "classes"."""
        return (*(("examples",) if self.examples else ()), *(("classes",) if self.classes else ()))


NONE = Evidence()
