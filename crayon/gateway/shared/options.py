"""How an answer is drawn: the fields that several routes share, as the SDK's keywords."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from crayon.gateway.shared.fields import Fields

NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty")
# OpenAI's fields that change no answer: who asks, and what is kept where.
BESIDE = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prediction")


def drawn(fields: Fields, default_max_tokens: int) -> dict[str, Any]:
    """Return the sampling keywords of OpenAI's fields and llama.cpp's beside them.

    Raises:
        InvalidRequestError: one is of another type, or stands for what is not offered.
    """
    found: dict[str, Any] = {name: fields.number(name) for name in NUMBERS}
    repetition = fields.number("repetition_penalty")  # vLLM's name
    if repetition is not None:
        found["repeat_penalty"] = repetition
    found["top_k"] = fields.whole("top_k")
    found["seed"] = fields.whole("seed")
    found["stop"] = stops(fields, "stop")
    found["ignore_eos"] = fields.flag("ignore_eos")  # vLLM's name, too: for measuring speed
    fields.refuse("n", "only one answer is written for a request; ask again for another one", (1,))
    fields.refuse("logit_bias", "is not offered here; leave it away", ({},))
    found["max_tokens"] = longest(fields, "max_completion_tokens", "max_tokens", default=default_max_tokens)
    return {name: value for name, value in found.items() if value is not None}


def tools(fields: Fields) -> dict[str, Any]:
    """Return the keywords of OpenAI's fields that say what may be called.

    Raises:
        InvalidRequestError: one is of another type; what is wrong in a tool, the SDK says.
    """
    found: dict[str, Any] = {
        "tools": fields.items("tools") or None,
        "tool_choice": fields.take("tool_choice"),
        "parallel_tool_calls": fields.flag("parallel_tool_calls"),
    }
    return {name: value for name, value in found.items() if value is not None}


def stops(fields: Fields, key: str) -> list[str] | None:
    """Return the texts that end an answer: one, or a list."""
    value = fields.take(key)
    if value is None or isinstance(value, list):
        return value or None
    if isinstance(value, str):
        return [value]
    raise InvalidRequestError(fields.name(key), "must be a text or a list of texts")


def longest(fields: Fields, *keys: str, default: int) -> int:
    """Return how long the answer may be, by one of several names.

    Raises:
        InvalidRequestError: two of them differ, or one is less than 1.
    """
    given = {key: value for key in keys if (value := fields.whole(key)) is not None}
    if len(set(given.values())) > 1:
        raise InvalidRequestError(fields.name(next(iter(given))), f"and {list(given)[1]} differ; leave one away")
    for key, value in given.items():
        if value < 1:
            raise InvalidRequestError(fields.name(key), f"must be at least 1, not {value}")
    return next(iter(given.values()), default)
