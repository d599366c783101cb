"""How much room an answer is given in the cache: the choices, for whoever offers them."""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """What is predicted of an answer's length."""

    WORST = "worst"
    """Every answer gets all its tokens."""
    MEAN = "mean"
    """The mean of those answers that got this far, each cut at its `max_tokens`."""
    QUANTILE = "quantile"
    """What a given share of those answers that got this far did not exceed."""
    PAPER = "paper"
    """NanoFlow: every answer ends at the mean length, one that is longer ends with its next token."""
    SHARES = "shares"
    """Not one end for each: the share of answers that get so far, at every step (see `kv_profile`)."""
