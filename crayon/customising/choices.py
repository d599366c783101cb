"""How given texts are compared as answers: one rule for customising and for `Crayon.choose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from crayon.text_form import same_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.engine import ContinuationScore

# Choices with more words than this on average are compared per token: else the shortest would win.
LONG_CHOICE_WORDS = 4.0

# How choices are compared: by their tokens and the answer's end, by their tokens alone, or per token.
Rule = Literal["ended", "whole", "token"]
RULES: tuple[Rule, ...] = ("ended", "whole", "token")


def place_among(text: str, texts: Sequence[str]) -> int | None:
    """Return which of the texts is the same: letter by letter, else but for case, Unicode form and outer spaces.

    So of two answers that only case tells apart, as "mW" and "MW", each is found.
    """
    if text in texts:
        return list(texts).index(text)
    return next((i for i, other in enumerate(texts) if same_key(other) == same_key(text)), None)


def rule_for(texts: Sequence[str], *, ended: bool) -> Rule:
    """Return how choices are compared.

    Args:
        texts: the choices.
        ended: whether the answer's end counts. Without it, a choice that continues another one would never win; but the
            plain base was never taught where an answer ends.
    """
    if sum(len(text.split()) for text in texts) > LONG_CHOICE_WORDS * len(texts):
        return "token"
    return "ended" if ended else "whole"


def choice_values(scores: Sequence[ContinuationScore], rule: Rule, *, ended: bool = True) -> NDArray[np.float64]:
    """Return one number for each choice, the largest for the likeliest; shape (choices,).

    Args:
        scores: of the choices, in their order.
        rule: how they are compared; "ended" needs scores with the end.
        ended: whether the last token of each is the answer's end.
    """
    if rule == "ended":
        return np.array([score.total for score in scores])
    texts = [score.token_logprobs[:-1] if ended else score.token_logprobs for score in scores]
    return np.array([sum(text) / (len(text) if rule == "token" else 1) for text in texts])
