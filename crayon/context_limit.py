"""Whether the tokens of a request fit a model's context: the same refusals on the device and in every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError, PromptTooLongError

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_prompt(prompt: Sequence[int], context_tokens: int) -> None:
    """Check that there is a prompt, and room for a token of the answer behind it.

    Raises:
        InvalidRequestError: it has no tokens.
        PromptTooLongError: there is no room.
    """
    if not prompt:
        raise InvalidRequestError("messages", "the model's chat template makes nothing of them")
    if len(prompt) >= context_tokens:
        raise PromptTooLongError(len(prompt), context_tokens - 1)


def check_continuations(prompt_tokens: int, continuations: Sequence[Sequence[int]], context_tokens: int) -> None:
    """Check that each continuation has tokens, and fits behind the prompt.

    Raises:
        InvalidRequestError: one has none; the field names it.
        PromptTooLongError: one does not fit; the field names it.
    """
    for i, part in enumerate(continuations):
        field = f"continuations[{i}]"
        if not part:
            raise InvalidRequestError(field, "holds nothing that the model has tokens for")
        if prompt_tokens + len(part) > context_tokens:
            raise PromptTooLongError(prompt_tokens + len(part), context_tokens, field)
