"""What fits a context, and what is said of what does not."""

from __future__ import annotations

import pytest

from crayon.context_limit import check_continuations, check_prompt
from crayon.errors import InvalidRequestError, PromptTooLongError


def test_a_prompt_needs_room_for_one_token_of_an_answer() -> None:
    check_prompt([1] * 7, 8)
    with pytest.raises(PromptTooLongError, match=r"8 .* 7"):
        check_prompt([1] * 8, 8)
    with pytest.raises(InvalidRequestError, match="template makes nothing"):
        check_prompt([], 8)


def test_the_continuation_that_does_not_fit_is_named() -> None:
    check_continuations(5, [[1], [1] * 3], 8)
    with pytest.raises(PromptTooLongError) as caught:
        check_continuations(5, [[1], [1] * 4], 8)
    assert caught.value.field == "continuations[1]"
    with pytest.raises(InvalidRequestError, match=r"continuations\[0\].*holds nothing"):
        check_continuations(5, [[], [1]], 8)
