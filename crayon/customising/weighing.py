"""Which evidence answers a profile's queries: decided on its own samples, each answered by the others.

Pure functions over log-probabilities and embeddings. What is believed beforehand comes from train tasks; see
docs/how-to/customising.md, "How it is weighed".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from crayon.customising.classifier import Classifier
from crayon.customising.support import normalised

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from crayon.customising.choices import Rule

# What the model counts, what the classifier may count, and what a kind of prompt has to make up for (nats a sample).
# Fitted on the train splits of CLINC150, BIG-bench, BoolQ and StrategyQA (18 users of SmolLM2, 9 of Qwen 0.5B): right
# answers change by less than 2 points from half to twice these numbers. Examples are judged by prompts that lack a
# quarter of them, so they are worth more than they seem.
MODEL = 0.5
CLASSES = (10.0, 5.0, 0.0)
HANDICAP: Mapping[str, float] = {"examples": 0.0, "reader": 0.0, "blend": 0.3, "base": 0.6}
NO_CLASSES = 0.6
# What a member that answers alone, as it was taught to, has to make up for on its own task: on the train splits of nine
# tasks of the shipped pool it was the best of all for 14 of 14 users.
OWN = -0.5
# How much likelier than under the plain base (nats a sample) the right answers have to be where no more of them are
# found: less is chance.
MIN_GAIN = 0.1

# How the plain base is read; the first of two that are as good.
RULES_OF_BASE: tuple[Rule, Rule] = ("whole", "ended")

# Kinds of prompt: the plain base alone, under the blend, or with examples; or the pool's reader with examples.
Prompt = Literal["base", "blend", "examples", "reader"]
PROMPTS: tuple[Prompt, ...] = ("base", "blend", "examples", "reader")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What the model says of the cases under one kind of prompt.

    Args:
        prompt: the plain base, or with examples, under the blend, or both.
        whole: log-probability of each answer's tokens, shape (cases, answers), and
        ended: the same with the answer's end.
        own: whether it is a member on its own task, which may answer alone, as it was taught to.
    """

    prompt: Prompt
    whole: NDArray[np.float64]
    ended: NDArray[np.float64]
    own: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One way to answer: the values of each case's answers, (cases, answers), and what it has to make up for."""

    prompt: Prompt
    classes: float
    taught: bool
    values: NDArray[np.float64]
    handicap: float

    @property
    def name(self) -> str:
        return f"{self.prompt}+classes" if self.classes else self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What was decided for a profile with a closed set.

    Args:
        prompt: whose model answers; None keeps the plain base.
        classes: what the classifier counts.
        bias: of each answer, (answers,); () where there is none.
        taught: whether a member answers alone, as it was taught to: with the answer's end and without bias.
        right: for each case, whether it is answered rightly, as bool of shape (cases,), and
        base: whether the plain base does, and
        rule: how its log-probabilities are read for that.
        tried: right answers of each candidate by its name, for information.
    """

    prompt: Prompt | None
    classes: float
    bias: tuple[float, ...]
    taught: bool
    right: NDArray[np.bool_]
    base: NDArray[np.bool_]
    rule: Rule
    tried: Mapping[str, int]


def weigh(
    scored: Sequence[Scored],
    labels: NDArray[np.intp],
    judged: NDArray[np.bool_],
    classes: NDArray[np.floating],
    *,
    ended: bool,
) -> Weighed:
    """Return which evidence makes the right answers of the cases likeliest, or the plain base.

    A candidate goes live only if it answers more judged cases rightly than the plain base does (by whichever way of
    reading it is best) and makes the right answers no less likely, or as many and makes them likelier by `MIN_GAIN`. A
    member on its own task, alone, does if it answers as many rightly: that it knows the task is known beforehand.

    Args:
        scored: what the model says; the first is the plain base.
        labels: the right answer of each case, (cases,).
        judged: which cases count: those whose answer another sample has, too, (cases,).
        classes: the classifier's value of each answer, left out, (cases, answers).
        ended: whether the answer's end counts.
    """
    plain = scored[0]
    rows = np.arange(len(labels))
    readings = [normalised(plain.whole), normalised(plain.ended)]
    both = [reading.argmax(axis=1) == labels for reading in readings]
    base, rule = max(zip(both, RULES_OF_BASE, strict=True), key=lambda one: int(one[0][judged].sum()))
    nothing = Weighed(prompt=None, classes=0.0, bias=(), taught=False, right=base, base=base, rule=rule, tried={})
    if not judged.any():
        return nothing
    # The base is given the temperature that suits it best, so that it does not lose by being too sure.
    least = min(
        float(-normalised(scale * reading)[rows, labels][judged].mean())
        for reading in readings
        for scale in (0.25, 0.5, 1.0)
    )
    best: tuple[float, _Candidate, NDArray[np.bool_]] | None = None
    tried: dict[str, int] = {"base": int(base[judged].sum())}
    for one in _candidates(scored, classes, ended=ended):
        right = one.values.argmax(axis=1) == labels
        loss = float(-normalised(one.values)[rows, labels][judged].mean())
        tried[one.name] = max(tried.get(one.name, 0), int(right[judged].sum()))
        gained = int(right[judged].sum()) - int(base[judged].sum())
        if gained < 0 or (not one.taught and loss > least - (0.0 if gained else MIN_GAIN)):
            continue
        if best is None or loss + one.handicap < best[0]:
            best = (loss + one.handicap, one, right)
    if best is None:
        return replace(nothing, tried=tried)
    _, won, right = best
    bias: tuple[float, ...] = ()
    if not won.taught:
        live = next(one for one in scored if one.prompt == won.prompt)
        means = normalised(live.ended if ended else live.whole).mean(axis=0)
        bias = tuple(round(float(value), 5) for value in means)
    return Weighed(
        prompt=won.prompt,
        classes=won.classes,
        bias=bias,
        taught=won.taught,
        right=right,
        base=base,
        rule=rule,
        tried=tried,
    )


def _candidates(scored: Sequence[Scored], classes: NDArray[np.floating], *, ended: bool) -> Iterator[_Candidate]:
    for one in scored:
        if one.own:
            yield _Candidate(one.prompt, 0.0, taught=True, values=normalised(one.ended), handicap=OWN)
        model = normalised(one.ended if ended else one.whole)
        for weight in CLASSES:
            values = MODEL * (model - others_mean(model)) + weight * classes
            handicap = HANDICAP[one.prompt] + (0.0 if weight else NO_CLASSES)
            yield _Candidate(one.prompt, weight, taught=False, values=values, handicap=handicap)


def others_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each row the mean of all other rows, shape as given; zeros where there is one row."""
    if len(values) < 2:
        return np.zeros_like(values)
    return np.asarray((values.sum(axis=0) - values) / (len(values) - 1), np.float64)


def left_out_classes(vectors: NDArray[np.floating], labels: Sequence[int], classes: int) -> NDArray[np.float64]:
    """Return the classifier's values of each labelled sample by the others, shape (samples, classes)."""
    return Classifier(vectors, labels, classes).left_out()


def needs_end(answers: Sequence[str]) -> bool:
    """Return whether an answer begins like another: then only its end tells the two apart."""
    return any(one != other and other.startswith(one) for one in answers for other in answers)
