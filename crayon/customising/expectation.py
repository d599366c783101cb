"""What blending is worth on the user's own samples, each scored under weights that the others gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from crayon.adapters.gate import similarities, weights
from crayon.completion import Blend

# What is named twice is taken from here by the evaluation.
from crayon.customising.choices import LONG_CHOICE_WORDS as LONG_CHOICE_WORDS
from crayon.customising.choices import RULES as RULES
from crayon.customising.choices import Rule as Rule
from crayon.customising.choices import choice_values, rule_for
from crayon.customising.customization import Expectation, Refused
from crayon.customising.sample import closed_answers, one_spelling
from crayon.errors import PromptTooLongError
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.gate import Gate
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.profiles import Profile
    from crayon.customising.sample import Sample

# More samples change the figure little and take their time.
MAX_CASES = 24
# Of each profile, in a quick check.
QUICK_CASES = 8
# Fewer scored samples are no ground to refuse a blend; so many of each profile are scored, if it has them.
MIN_JUDGED = 8

Metric = Literal["accuracy", "logprob"]


@dataclass(frozen=True, slots=True)
class Case:
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
class Outcome:
    """What a sample of a profile is worth under the plain base and under its weights: points, or nats a token."""

    part: int
    base: float
    customised: float


def make_cases(
    samples: Sequence[Sample], parts: NDArray[np.intp], system: Message | None = None
) -> tuple[list[Case], Metric]:
    """Return a case for each answered sample, and what is measured: accuracy if all are choices."""
    samples, _ = one_spelling(samples)
    answered = [i for i, sample in enumerate(samples) if sample.answer is not None]
    labels = {part: closed_answers([samples[i] for i in answered if parts[i] == part]) for part in set(parts.tolist())}
    texts = {i: samples[i].choices or labels[int(parts[i])] for i in answered}
    metric: Metric = "accuracy" if all(texts.values()) else "logprob"
    cases: list[Case] = []
    for i in answered:
        messages = (*((system,) if system else ()), Message("user", samples[i].question))
        answer = samples[i].answer or ""
        choices = texts[i] if metric == "accuracy" else (answer,)
        cases.append(Case(i, messages, choices, choices.index(answer)))
    return cases, metric


def few_of(cases: Sequence[Case], parts: NDArray[np.intp], limit: int = MAX_CASES) -> list[Case]:
    """Return about `limit` of the cases: of each part its share, at least `MIN_JUDGED`, evenly from its list."""
    found: list[Case] = []
    for part in sorted({int(parts[case.sample]) for case in cases}):
        own = [case for case in cases if parts[case.sample] == part]
        count = min(len(own), max(MIN_JUDGED, round(limit * len(own) / len(cases))))
        found += [own[i] for i in np.linspace(0, len(own) - 1, count).round().astype(int)]
    return found


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


def compare(
    calls: DeviceCalls,
    pool_id: str,
    plan: Sequence[tuple[Case, tuple[float, ...]]],
    parts: NDArray[np.intp],
    metric: Metric,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Outcome]:
    """Score each case under the plain base and under its weights.

    Choices are compared by the case's rule. The plain base was never taught where an answer ends: on each profile it is
    given the rule that gets most of its samples right, so that nothing counts as gained that another rule gives too.
    A case that is too long for the context is left out.
    """
    # By weights: what one blend has computed serves the next case.
    ordered = sorted(plan, key=lambda item: item[1])
    found: list[tuple[int, dict[Rule, float], float | None]] = []
    for i, (case, own) in enumerate(ordered):
        progress(i, len(ordered))
        try:
            plain = _plain_worth(calls, case, metric)
            worthy = worth(calls, case, Blend(pool_id, own), metric) if any(own) else None
        except PromptTooLongError:
            continue
        found.append((int(parts[case.sample]), plain, worthy))
    progress(len(ordered), len(ordered))
    outcomes: list[Outcome] = []
    for part in sorted({part for part, _, _ in found}):
        mine = [(plain, worthy) for each, plain, worthy in found if each == part]
        best = max(RULES, key=lambda rule: sum(plain[rule] for plain, _ in mine))
        for plain, worthy in mine:
            outcomes.append(Outcome(part, plain[best], plain[best] if worthy is None else worthy))
    return outcomes


def judge(outcomes: Sequence[Outcome], profiles: Sequence[Profile]) -> tuple[Refused, ...]:
    """Return the blends that do worse than the plain base on the samples of their profile.

    Of fewer than `MIN_JUDGED` scored samples nothing is concluded, unless the weights were searched for: nothing else
    speaks for those.
    """
    refused: list[Refused] = []
    for part, profile in enumerate(profiles):
        own = [outcome for outcome in outcomes if outcome.part == part]
        if not profile.fits or len(own) < (1 if profile.refined else MIN_JUDGED):
            continue
        base, customised = (float(mean) for mean in np.mean([(each.base, each.customised) for each in own], axis=0))
        if customised < base:
            refused.append(
                Refused(
                    profile=profile.name,
                    weights=profile.weights,
                    base=round(base, 4),
                    customised=round(customised, 4),
                    samples=len(own),
                )
            )
    return tuple(refused)


def expected(
    outcomes: Sequence[Outcome], metric: Metric, profiles: Sequence[Profile] = (), refused: Sequence[Refused] = ()
) -> Expectation | None:
    """Return the means with their interval, the base's own where a profile's blend was refused; None of nothing."""
    if not outcomes:
        return None
    without = {blend.profile for blend in refused}
    kept = {part for part, profile in enumerate(profiles) if profile.name in without}
    base = np.array([outcome.base for outcome in outcomes])
    customised = np.array([outcome.base if outcome.part in kept else outcome.customised for outcome in outcomes])
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


def worth(calls: DeviceCalls, case: Case, blend: Blend | None, metric: Metric) -> float:
    """Return 100 or 0 for a right or wrong choice, or the answer's mean log-probability."""
    if metric == "logprob":
        return calls.score(case.messages, case.texts, blend).scores[0].mean
    return 100.0 * (int(np.argmax(choice_scores(calls, case, blend))) == case.right)


def choice_scores(calls: DeviceCalls, case: Case, blend: Blend | None) -> NDArray[np.float64]:
    """Return the log-probability of each choice by the case's rule, shape (choices,)."""
    return choice_values(calls.score(case.messages, case.texts, blend, ended=True).scores, case.rule)


def _plain_worth(calls: DeviceCalls, case: Case, metric: Metric) -> dict[Rule, float]:
    """Return what the plain base makes of a case, by each rule."""
    if metric == "logprob":
        return dict.fromkeys(RULES, worth(calls, case, None, metric))
    scores = calls.score(case.messages, case.texts, None, ended=True).scores
    return {rule: 100.0 * (int(np.argmax(choice_values(scores, rule))) == case.right) for rule in RULES}


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
