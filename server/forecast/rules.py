"""How much room an answer is given in the cache: the rules to choose from."""

from __future__ import annotations

from enum import StrEnum


class LengthRule(StrEnum):
    """What is predicted of an answer's length."""

    WORST = "worst"
    """Every answer gets all its tokens."""
    MEAN = "mean"
    """The mean of those answers that got this far, each cut at its `max_tokens`."""
