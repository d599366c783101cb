from __future__ import annotations

import numpy as np
import pytest

from crayon.errors import NotFiniteError
from crayon.llama.logprobs import token_logprob
from crayon.llama.signals import log_softmax_at


def piece(token: int) -> bytes:
    return b"%d" % token


@pytest.mark.parametrize("top", [0, 1, 3, 20])
def test_a_token_is_told_with_the_likeliest_in_its_place(top: int) -> None:
    logits = np.array([0.0, 3.0, -np.inf, 3.0, 1.0, 2.0], np.float32)
    expected = log_softmax_at(logits, range(6))
    found = token_logprob(logits, 4, top, piece)
    assert (found.token, found.piece) == (4, b"4")
    assert found.logprob == pytest.approx(expected[4])
    order = [1, 3, 5, 4, 0][:top]  # of equal ones the first; a banned one is none
    assert [each.token for each in found.top] == order
    assert [each.logprob for each in found.top] == pytest.approx(list(expected[order]))


def test_nothing_is_told_of_a_row_that_is_not_finite() -> None:
    with pytest.raises(NotFiniteError):
        token_logprob(np.array([1.0, np.nan], np.float32), 0, 2, piece)
