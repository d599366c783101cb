"""Sampling parameters: OpenAI's names first, llama.cpp's as extras."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from crayon.errors import InvalidRequestError
from crayon.messages import check_unicode

# (low, high) inclusive; None is unbounded.
_RANGES: dict[str, tuple[float | None, float | None]] = {
    "temperature": (0.0, 5.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.1, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
MAX_STOPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn. Every value is sent to every engine, since engines' own defaults differ.

    Args:
        max_tokens: most tokens in the answer (1 or more; capped by what the context still holds).
        temperature: 0 picks the likeliest token each time (the default). Near ties may still fall either way: the
            arithmetic of quantized models depends a little on what else is cached or computed together.
        top_p: keep the smallest set of tokens with this total probability; 1 keeps all.
        top_k: keep this many likeliest tokens; 0 keeps all.
        min_p: drop tokens less likely than this fraction of the likeliest; 0 drops none.
        repeat_penalty: divide the logits of the last 64 tokens by this; 1 is off. None is as suits the device's model
            (some small ones repeat themselves without end when the likeliest token is always taken), elsewhere off.
        presence_penalty: subtract this once for a token already used; 0 is off.
        frequency_penalty: subtract this for each use of a token; 0 is off.
        stop: texts that end the answer; they are not part of it.
        seed: fixes the draw, 0 to 2**32 - 2; None draws a new one each time.
        ignore_eos: write on past the model's own end, up to `max_tokens` or a stop text: for measuring speed, where
            every answer has to be of a known length.

    Raises:
        InvalidRequestError: a value is out of range or of the wrong type.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name == "repeat_penalty":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InvalidRequestError(name, f"must be a finite number, not {value!r}")
            if (low is not None and value < low) or (high is not None and value > high):
                raise InvalidRequestError(name, f"must be from {low} to {high}, not {value}")
        _integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _integer("top_k", self.top_k, 0, 2**31 - 1)
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**32 - 2)
        ignore: object = self.ignore_eos
        if not isinstance(ignore, bool):
            raise InvalidRequestError("ignore_eos", f"must be true or false, not {ignore!r}")
        given: object = self.stop  # a lone text or a list is what callers write
        if not isinstance(given, str | Iterable):
            raise InvalidRequestError("stop", f"must be a text or a list of texts, not {given!r}")
        stop = (given,) if isinstance(given, str) else tuple(given)
        if len(stop) > MAX_STOPS:
            raise InvalidRequestError("stop", f"at most {MAX_STOPS} texts, not {len(stop)}")
        if not all(isinstance(text, str) and text for text in stop):
            raise InvalidRequestError("stop", "every entry must be a non-empty text")
        for text in stop:
            check_unicode("stop", text)
        object.__setattr__(self, "stop", stop)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken, with no penalties to apply first."""
        return self.temperature == 0.0 and not self.penalised

    @property
    def penalised(self) -> bool:
        """Whether any repetition penalty is on."""
        return self.repeat_penalty not in {None, 1.0} or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


SAMPLING_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Sampling))


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(name, f"must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise InvalidRequestError(name, f"must be from {low} to {high}, not {value}")
