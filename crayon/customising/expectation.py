"""What blending is worth on the user's own samples, each scored under weights that the others gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from crayon.adapters.gate import similarities, weights
from crayon.completion import Blend
from crayon.customising.customization import Expectation
from crayon.customising.sample import choices_of
from crayon.errors import PromptTooLongError
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.gate import Gate
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.sample import Sample
    from crayon.engine import ContinuationScore

# More samples change the figure little and take their time.
MAX_CASES = 24
# Choices with more words than this on average are compared per token: else the shortest would win.
LONG_CHOICE_WORDS = 4.0

Metric = Literal["accuracy", "logprob"]


@dataclass(frozen=True, slots=True)
class Case:
    """A sample whose answer is known. `texts` are the choices and `right` is the index of the answer among them."""

    sample: int
    messages: tuple[Message, ...]
    texts: tuple[str, ...]
    right: int

    @property
    def long(self) -> bool:
        """Whether the choices are compared per token."""
        return sum(len(text.split()) for text in self.texts) > LONG_CHOICE_WORDS * len(self.texts)


def make_cases(
    samples: Sequence[Sample], parts: NDArray[np.intp], system: Message | None = None
) -> tuple[list[Case], Metric]:
    """Return a case for each answered sample, and what is measured: accuracy if all are choices."""
    answered = [i for i, sample in enumerate(samples) if sample.answer is not None]
    labels = {part: choices_of([samples[i] for i in answered if parts[i] == part]) for part in set(parts.tolist())}
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
    """Return at most `limit` of the cases, from all parts and evenly from the whole list."""
    ordered = sorted(cases, key=lambda case: parts[case.sample])
    if len(ordered) <= limit:
        return ordered
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, limit).round().astype(int)]


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
    found = weights(similarities(vectors[others], keys), gate)
    return tuple(float(value) for value in np.round(found, 2))


def expect(
    calls: DeviceCalls,
    pool_id: str,
    plan: Sequence[tuple[Case, tuple[float, ...]]],
    metric: Metric,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Expectation | None:
    """Score each case under the plain base and under its weights; None where nothing could be scored.

    A case that is too long for the context is left out.
    """
    # By weights: what one blend has computed serves the next case.
    ordered = sorted(plan, key=lambda item: item[1])
    base: list[float] = []
    blended: list[float] = []
    for i, (case, own) in enumerate(ordered):
        progress(i, len(ordered))
        blend = Blend(pool_id, own) if any(own) else None
        try:
            plain = worth(calls, case, None, metric)
            base.append(plain)
            blended.append(plain if blend is None else worth(calls, case, blend, metric))
        except PromptTooLongError:
            del base[len(blended) :]
    progress(len(ordered), len(ordered))
    if not base:
        return None
    low, high = _interval(np.array(blended) - np.array(base), 100.0 if metric == "accuracy" else 0.0)
    return Expectation(
        metric=metric,
        base=round(float(np.mean(base)), 4),
        customised=round(float(np.mean(blended)), 4),
        low=low,
        high=high,
        samples=len(base),
    )


def worth(calls: DeviceCalls, case: Case, blend: Blend | None, metric: Metric) -> float:
    """Return 100 or 0 for a right or wrong choice, or the answer's mean log-probability."""
    if metric == "logprob":
        return calls.score(case.messages, case.texts, blend).scores[0].mean
    return 100.0 * (int(np.argmax(choice_scores(calls, case, blend))) == case.right)


def choice_scores(calls: DeviceCalls, case: Case, blend: Blend | None) -> NDArray[np.float64]:
    """Return the log-probability of each choice, long ones per token, shape (choices,)."""

    def value(score: ContinuationScore) -> float:
        return score.mean if case.long else score.total

    return np.array([value(score) for score in calls.score(case.messages, case.texts, blend).scores])


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
