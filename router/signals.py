"""Named signals of how likely the device is right: each one number drawn from the features, higher for surer.

A new signal is one more line in `SIGNALS`; gates and calibration take signals by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from crayon.errors import InvalidRequestError
from crayon.router.features import ChoiceFeatures, Features, TokenFeatures

Signal: TypeAlias = Callable[[Features], float | None]

# Margin and highest probability tell the same of choices; of texts the mean is the plainest that holds up.
DEFAULT_CHOICE = "margin"
DEFAULT_TEXT = "mean_logprob"


def _text(read: Callable[[TokenFeatures], float]) -> Signal:
    """Return the signal that reads the tokens: not measured before the first."""
    return lambda features: read(features.tokens) if features.tokens.tokens else None


def _choice(read: Callable[[ChoiceFeatures], float]) -> Signal:
    return lambda features: None if features.choice is None else read(features.choice)


SIGNALS: Mapping[str, Signal] = MappingProxyType(
    {
        "mean_logprob": _text(lambda tokens: tokens.mean_logprob),
        "min_logprob": _text(lambda tokens: tokens.min_logprob),
        "low_logprob": _text(lambda tokens: tokens.low_logprob),
        "mean_margin": _text(lambda tokens: tokens.mean_margin),
        "mean_entropy": _text(lambda tokens: -tokens.mean_entropy),
        "max_entropy": _text(lambda tokens: -tokens.max_entropy),
        "first_entropy": _text(lambda tokens: -tokens.first_entropy),
        "max_prob": _choice(lambda choice: choice.max_prob),
        "margin": _choice(lambda choice: choice.margin),
        "choice_entropy": _choice(lambda choice: -choice.entropy),
        "scope_margin": lambda features: features.scope_margin,
    }
)


def signal_value(name: str, features: Features) -> float | None:
    """Return a signal of a query, higher for surer, or None: it was not measured (NaN counts as that).

    Raises:
        InvalidRequestError: there is no signal of that name.
    """
    value = check_signal(name)(features)
    return None if value is None or math.isnan(value) else float(value)


def check_signal(name: str) -> Signal:
    """Return the signal of that name.

    Raises:
        InvalidRequestError: there is none.
    """
    found = SIGNALS.get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidRequestError("signal", f"must be one of {', '.join(SIGNALS)}, not {name!r}")
    return found
