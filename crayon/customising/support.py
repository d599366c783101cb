"""What a profile's samples say of one query: the turns that stand before it, and what speaks for each answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.choices import choice_values, place_among
from crayon.customising.classifier import Classifier
from crayon.customising.examples import shown_to
from crayon.errors import AdapterError
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.customising.choices import Rule
    from crayon.customising.evidence import Evidence
    from crayon.customising.material import Material
    from crayon.customising.sample import Sample
    from crayon.engine import ContinuationScore


@dataclass(frozen=True, slots=True)
class Support:
    """The support set of a query, ready to use (the word of few-shot learning for labelled samples).

    Args:
        turns: user and assistant messages in turn, shown before the conversation.
        folder: where what the model computed for them may be kept; None: nowhere.
        answers: the closed set; () where a text is to be written.
        odds: what is added to each answer's value; (answers,).
        model: how much the model's log-probabilities count.
        rule: how they are read.
    """

    turns: tuple[Message, ...] = ()
    folder: Path | None = None
    answers: tuple[str, ...] = ()
    odds: tuple[float, ...] = ()
    model: float = 1.0
    rule: Rule = "whole"
    classes: bool = False  # whether the classifier's values are in the odds

    @property
    def kinds(self) -> tuple[str, ...]:
        """What takes part, in words: "examples", "classes", "answers"."""
        parts = {"examples": self.turns, "classes": self.classes and self.answers, "answers": self.answers}
        return tuple(name for name, there in parts.items() if there)

    def before(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return messages with the turns before them, behind a system message."""
        system = messages[:1] if messages and messages[0].role == "system" else ()
        return (*system, *self.turns, *messages[len(system) :])

    def shared(self, messages: tuple[Message, ...]) -> int:
        """Return how many messages of `before` every query shares: system message and turns; 0 without turns."""
        return len(self.turns) + (messages[0].role == "system") if self.turns and messages else 0

    def without_turns(self) -> Support:
        """Return what is left where the turns do not fit the context."""
        return replace(self, turns=(), folder=None)

    def values(self, choices: Sequence[str], scores: Sequence[ContinuationScore]) -> NDArray[np.float64] | None:
        """Return one value for each choice, or None: one or no choice is an answer of the samples.

        A choice that is none of the answers is compared by the model, at the lowest odds: nothing speaks for it.

        Args:
            choices: the texts.
            scores: one for each, whose last token is the answer's end.
        """
        places = [place_among(choice, self.answers) for choice in choices]
        known = [place for place in places if place is not None]
        if len(set(known)) < 2:
            return None
        model = normalised(choice_values(scores, self.rule))
        low = min(self.odds[place] for place in known)
        odds = np.array([low if place is None else self.odds[place] for place in places])
        return np.asarray(self.model * model + odds, np.float64)


class ProfileSupport:
    """The evidence of one profile, made ready once: turns rendered, classifier solved.

    Args:
        evidence: of the profile.
        material: the samples that it names, with their embeddings.
        folder: where the turns' keys and values may be kept.

    Raises:
        AdapterError: the evidence names samples that are not there, or whose answers are others.
    """

    def __init__(self, evidence: Evidence, material: Material, folder: Path | None = None) -> None:
        self.evidence = evidence
        count = len(material.samples)
        if any(number >= count for number in (*evidence.examples, *evidence.labelled)):
            raise AdapterError(f"the evidence names samples beyond the {count} that are kept; customise again")
        self._turns = turns_of([material.samples[i] for i in evidence.examples])
        self._folder = folder
        self._classifier: Classifier | None = None
        if evidence.classes:
            labels = [place_of(material.samples[i], evidence.answers) for i in evidence.labelled]
            rows = material.vectors[list(evidence.labelled)]
            self._classifier = Classifier(rows, labels, len(evidence.answers))

    @property
    def looks(self) -> bool:
        """Whether a query's embedding says something; else every query gets the same support."""
        return self._classifier is not None

    def of(self, vector: NDArray[np.floating] | None) -> Support:
        """Return the support of one query by its embedding, a unit row (D,); None where `looks` is false."""
        evidence = self.evidence
        classes = self._classifier is not None and vector is not None
        odds = -evidence.model * np.asarray(evidence.bias or [0.0] * len(evidence.answers), np.float64)
        if self._classifier is not None and vector is not None:
            odds = odds + evidence.classes * self._classifier.values(vector[np.newaxis])[0]
        return Support(
            self._turns,
            self._folder if self._turns else None,
            evidence.answers,
            tuple(float(value) for value in odds),
            evidence.model,
            evidence.rule,
            classes,
        )

    def left_out(self, number: int) -> Support:
        """Return the support of a sample, by its number, as the other samples give it."""
        evidence, found = self.evidence, self.of(None)
        if number in evidence.examples:
            (shown,) = shown_to([number], evidence.examples)
            turns = tuple(
                message
                for place, example in enumerate(evidence.examples)
                if example in shown
                for message in self._turns[2 * place : 2 * place + 2]
            )
            found = replace(found, turns=turns, folder=None)
        if self._classifier is not None and number in evidence.labelled:
            values = self._classifier.left_out()[evidence.labelled.index(number)]
            odds = np.asarray(found.odds) + evidence.classes * values
            found = replace(found, odds=tuple(float(value) for value in odds), classes=True)
        return found


def turns_of(samples: Sequence[Sample]) -> tuple[Message, ...]:
    """Return samples as a conversation: each question asked by the user and answered by the assistant.

    Raises:
        AdapterError: a sample has no answer.
    """
    found: list[Message] = []
    for sample in samples:
        if sample.answer is None:
            raise AdapterError("an example has no answer; customise again")
        found += [Message("user", sample.question), Message("assistant", sample.answer)]
    return tuple(found)


def place_of(sample: Sample, answers: Sequence[str]) -> int:
    """Return which of the answers a sample has.

    Raises:
        AdapterError: none of them.
    """
    place = None if sample.answer is None else place_among(sample.answer, answers)
    if place is None:
        raise AdapterError("a sample's answer is none of the closed set; customise again")
    return place


def normalised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log-softmax over the last axis."""
    given = np.asarray(values, np.float64)
    return np.asarray(given - np.logaddexp.reduce(given, axis=-1, keepdims=True), np.float64)
