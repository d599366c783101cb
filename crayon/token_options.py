"""What a call may ask of single tokens: how likely they were and which came next to them, and which to favour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from crayon.errors import InvalidRequestError

MAX_TOP_LOGPROBS = 20
"""Of one token, as OpenAI's interface and vLLM's engine have it."""
MAX_BIAS = 100.0
"""Added to a logit; so much forces a token, and so little bans it."""
MAX_BIASED = 1024
"""Tokens of one request."""

LogitBias: TypeAlias = tuple[tuple[int, float], ...]
"""What is added to which token's logit, in the order of the tokens."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how likely the model found it, by its own distribution: nothing of the sampling is in it.

    Args:
        token: its number in the vocabulary of the model that answers.
        piece: the bytes that it adds to the text, maybe a part of a character.
        logprob: natural logarithm of its probability.
        top: the likeliest tokens in its place, the likeliest first, it among them or not.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """The bytes as text; what is no whole character is told by the replacement character."""
        return self.piece.decode("utf-8", "replace")


def check_top_logprobs(value: object) -> int | None:
    """Return how many likely tokens are wanted in each one's place; None: no log-probabilities at all.

    Raises:
        InvalidRequestError: it is no number from 0 to 20.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOP_LOGPROBS:
        raise InvalidRequestError("top_logprobs", f"must be from 0 to {MAX_TOP_LOGPROBS}, not {value!r:.40}")
    return value


def check_logit_bias(value: Any) -> LogitBias:
    """Return the biases in the order of their tokens, from a mapping or pairs; a token may be a number or its digits.

    Raises:
        InvalidRequestError: they are too many, or a token or a bias is none; the message names it.
    """
    given = value if value is None or isinstance(value, tuple) else _items(value)
    if not given:
        return ()
    if len(given) > MAX_BIASED:
        raise InvalidRequestError("logit_bias", f"names {len(given)} tokens; at most {MAX_BIASED} can be")
    found: dict[int, float] = {}
    for pair in given:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InvalidRequestError("logit_bias", f"must map tokens to numbers, not hold {pair!r:.40}")
        token = _token(pair[0])
        bias = pair[1]
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not abs(bias) <= MAX_BIAS:
            problem = f"of token {token} must be from {-MAX_BIAS:g} to {MAX_BIAS:g}, not {bias!r:.40}"
            raise InvalidRequestError("logit_bias", problem)
        if found.setdefault(token, float(bias)) != bias:
            raise InvalidRequestError("logit_bias", f"names token {token} twice")
    return tuple(sorted((token, bias) for token, bias in found.items() if bias))


def check_vocabulary(bias: LogitBias, n_vocab: int) -> None:
    """See that a model has the tokens that are biased.

    Raises:
        InvalidRequestError: it has one of them not.
    """
    for token, _ in bias:
        if token >= n_vocab:
            problem = f"names token {token}; those of the model that answers are 0 to {n_vocab - 1}"
            raise InvalidRequestError("logit_bias", problem)


def _items(value: object) -> tuple[Any, ...]:
    if not isinstance(value, Mapping):
        raise InvalidRequestError("logit_bias", f"must map tokens to numbers, not be {value!r:.40}")
    return tuple(value.items())


def _token(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:  # JSON has no other keys
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        problem = f"must name tokens by their numbers in the vocabulary, not {value!r:.40}"
        raise InvalidRequestError("logit_bias", problem)
    return value
