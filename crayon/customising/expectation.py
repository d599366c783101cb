"""What blending is worth on the user's own samples, each scored under weights that the others gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from crayon.adapters.gate import similarities, weights

# What is named twice is taken from here by the evaluation.
from crayon.customising.choices import LONG_CHOICE_WORDS as LONG_CHOICE_WORDS
from crayon.customising.choices import RULES as RULES
from crayon.customising.choices import Rule as Rule
from crayon.customising.choices import choice_values, rule_for
from crayon.customising.customization import Expectation, Refused
from crayon.customising.sample import closed_answers, one_spelling
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.adapters.gate import Gate
    from crayon.completion import Blend
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.sample import Sample

# More samples change the figure little and take their time.
MAX_CASES = 24
# Of each profile, in a quick check.
QUICK_CASES = 8
# Fewer scored samples are no ground to refuse a blend; so many of each profile are scored, if it has them.
MIN_JUDGED = 8

Metric = Literal["accuracy", "logprob"]


@dataclass(frozen=True, slots=True)
class TrialCase:
    """A sample whose answer is known. `texts` are the choices and `right` is the index of the answer among them."""

    sample: int
    messages: tuple[Message, ...]
    texts: tuple[str, ...]
    right: int

    @property
    def rule(self) -> Rule:
        """How the choices are compared."""
        return rule_for(self.texts, ended=True)


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """What a sample of a profile is worth under the plain base, and with what goes live: points, or nats a token."""

    part: int
    base: float
    customised: float


def make_cases(
    samples: Sequence[Sample], parts: NDArray[np.intp], system: Message | None = None
) -> tuple[list[TrialCase], Metric]:
    """Return a case for each answered sample, and what is measured: accuracy if all are choices."""
    samples, _ = one_spelling(samples)
    answered = [i for i, sample in enumerate(samples) if sample.answer is not None]
    labels = {part: closed_answers([samples[i] for i in answered if parts[i] == part]) for part in set(parts.tolist())}
    texts = {i: samples[i].choices or labels[int(parts[i])] for i in answered}
    metric: Metric = "accuracy" if all(texts.values()) else "logprob"
    cases: list[TrialCase] = []
    for i in answered:
        messages = (*((system,) if system else ()), Message("user", samples[i].question))
        answer = samples[i].answer or ""
        choices = texts[i] if metric == "accuracy" else (answer,)
        cases.append(TrialCase(i, messages, choices, choices.index(answer)))
    return cases, metric


def few_of(cases: Sequence[int], limit: int = MAX_CASES) -> list[int]:
    """Return at most `limit` of the cases, evenly from their list."""
    count = min(len(cases), limit)
    return [cases[i] for i in np.linspace(0, len(cases) - 1, count).round().astype(int)]


def left_out_weights(
    vectors: NDArray[np.float32], parts: NDArray[np.intp], sample: int, keys: NDArray[np.float32], gate: Gate
) -> tuple[float, ...] | None:
    """Return the weights that the other samples of its part give one sample; None where there are no others.

    Rounded to hundredths, so that samples without much say share a blend and what is computed under it.
    """
    others = parts == parts[sample]
    others[sample] = False
    if not others.any():
        return None
    rest = vectors[others]
    found = weights(similarities(rest, keys), gate, len(rest))
    return tuple(float(value) for value in np.round(found, 2))


def expected(outcomes: Sequence[CaseOutcome], metric: Metric, refused: Sequence[Refused] = ()) -> Expectation | None:
    """Return the means with their interval; None of nothing."""
    if not outcomes:
        return None
    base = np.array([outcome.base for outcome in outcomes])
    customised = np.array([outcome.customised for outcome in outcomes])
    low, high = _interval(customised - base, 100.0 if metric == "accuracy" else 0.0)
    return Expectation(
        metric=metric,
        base=round(float(base.mean()), 4),
        customised=round(float(customised.mean()), 4),
        low=low,
        high=high,
        samples=len(outcomes),
        refused=tuple(refused),
    )


def worth(calls: DeviceCalls, case: TrialCase, blend: Blend | None, metric: Metric) -> float:
    """Return 100 or 0 for a right or wrong choice, or the answer's mean log-probability."""
    if metric == "logprob":
        return calls.score(case.messages, case.texts, blend).scores[0].mean
    return 100.0 * (int(np.argmax(choice_scores(calls, case, blend))) == case.right)


def choice_scores(calls: DeviceCalls, case: TrialCase, blend: Blend | None) -> NDArray[np.float64]:
    """Return the log-probability of each choice by the case's rule, shape (choices,)."""
    return choice_values(calls.score(case.messages, case.texts, blend, ended=True).scores, case.rule)


def _interval(differences: NDArray[np.float64], unit: float) -> tuple[float, float] | tuple[None, None]:
    """Return a 95 % interval of the mean difference, if it can be told.

    Where differences are bounded by `unit` (not 0), one of each extreme is added: else a handful of equal ones would
    look certain.
    """
    middle = float(differences.mean())
    values = np.concatenate([differences, [unit, -unit]]) if unit else differences
    if len(values) < 2:
        return None, None
    half = 1.96 * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
    return round(middle - half, 4), round(middle + half, 4)
