"""Choosing among given texts: which are allowed, and what scores say of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from crayon.customising.choices import choice_values, rule_for
from crayon.engine import TokenSignal
from crayon.errors import EngineError, InvalidRequestError
from crayon.messages import check_unicode
from crayon.router.features import choice_features
from crayon.text_form import one_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.customising.support import Support
    from crayon.engine import ContinuationScore
    from crayon.router.features import ChoiceFeatures

MIN_CHOICES, MAX_CHOICES = 2, 100
# A choice is an answer of one token: what is reserved or estimated for it beforehand must not count a whole answer.
ONE_TOKEN = 1


@dataclass(frozen=True, slots=True)
class Ranking:
    """One side's view of the choices: the likeliest, and the softmax over all of them, in their order."""

    index: int
    probabilities: tuple[float, ...]
    features: ChoiceFeatures

    @property
    def margin(self) -> float:
        """The largest probability minus the second largest."""
        return self.features.margin

    @property
    def signal(self) -> TokenSignal:
        """The choice as one token, drawn from as many as there are choices."""
        return TokenSignal(math.log(self.features.max_prob), self.features.entropy, self.features.margin)


def check_choices(choices: Iterable[str]) -> tuple[str, ...]:
    """Return the choices in one Unicode form (NFC): 2 to 100 texts, none empty, none twice (spaces around them aside).

    Raises:
        InvalidRequestError: they are not; the field names the first one that is wrong.
    """
    given: object = choices
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidRequestError("choices", f"must be a list of texts, not {type(given).__name__}")
    found: list[str] = []
    seen: dict[str, int] = {}
    for i, text in enumerate(islice(given, MAX_CHOICES + 1)):
        field = f"choices[{i}]"
        if not isinstance(text, str):
            raise InvalidRequestError(field, f"must be a text, not {type(text).__name__}")
        if not text.strip():
            raise InvalidRequestError(field, "is empty; leave it out")
        check_unicode(field, text)
        text = one_form(text)  # the same text from here on
        first = seen.setdefault(text.strip(), i)
        if first != i:
            raise InvalidRequestError(field, f"is the same text as choices[{first}]; leave one out")
        found.append(text)
    if len(found) < MIN_CHOICES:
        raise InvalidRequestError("choices", f"must be at least {MIN_CHOICES} texts, not {len(found)}")
    if len(found) > MAX_CHOICES:
        raise InvalidRequestError(f"choices[{MAX_CHOICES}]", f"is one too many; at most {MAX_CHOICES} are compared")
    return tuple(found)


def ranking(
    choices: Sequence[str], scores: Sequence[ContinuationScore], *, ended: bool, support: Support | None = None
) -> Ranking:
    """Return which of the choices is the likeliest.

    Args:
        choices: the texts.
        scores: one for each.
        ended: whether the last token of each score is the answer's end, and counts.
        support: what a customisation's samples say of the query; needs scores with the end.

    Raises:
        EngineError: the scores are unusable.
    """
    if len(scores) != len(choices) or not all(len(score.token_logprobs) > ended for score in scores):
        raise EngineError(f"the engine gave no score for each of {len(choices)} choices")
    combined = None if support is None else support.values(choices, scores)
    values = choice_values(scores, rule_for(choices, ended=ended), ended=ended) if combined is None else combined
    try:
        features = choice_features(values.tolist())
    except InvalidRequestError as error:
        raise EngineError(f"the engine's scores of the choices are unusable: {error}") from error
    best = float(values.max())
    parts = [math.exp(value - best) for value in values]
    return Ranking(int(values.argmax()), tuple(part / sum(parts) for part in parts), features)


def listed(question: str, choices: Sequence[str]) -> str:
    """Return the question with its options listed, as a larger model is asked."""
    options = "\n".join(f"- {choice}" for choice in choices)
    return f"{question}\n\nOptions:\n{options}\n\nAnswer with one of the options, and nothing else."
