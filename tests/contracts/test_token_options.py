"""What may be asked of single tokens."""

from __future__ import annotations

from typing import Any

import pytest

from crayon.errors import InvalidRequestError
from crayon.token_options import TokenLogprob, check_logit_bias, check_top_logprobs


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ()),
        ({}, ()),
        ({"12": 1, 3: -100.0, 5: 0}, ((3, -100.0), (12, 1.0))),
        ((("4", 2), (1, 1)), ((1, 1.0), (4, 2.0))),
        (((1, 0.5), (1, 0.5)), ((1, 0.5),)),
    ],
)
def test_biases_are_put_in_order_and_those_of_nothing_left_out(given: Any, found: tuple[Any, ...]) -> None:
    assert check_logit_bias(given) == found
    assert check_logit_bias(found) == found


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({1: 100.5}, "of token 1 must be from -100 to 100, not 100.5"),
        ({1: float("nan")}, "of token 1 must be from -100 to 100, not nan"),
        ({1: "2"}, "of token 1 must be from -100 to 100, not '2'"),
        ({"word": 2}, "must name tokens by their numbers in the vocabulary, not 'word'"),
        ({-1: 2}, "must name tokens by their numbers in the vocabulary, not -1"),
        ({True: 2}, "must name tokens by their numbers in the vocabulary, not True"),
        ({1: 2, "1": 3}, "names token 1 twice"),
        ([1], r"must map tokens to numbers, not be \[1\]"),
        ((1,), "must map tokens to numbers, not hold 1"),
        (dict.fromkeys(range(1025), 1), "names 1025 tokens; at most 1024 can be"),
    ],
)
def test_a_wrong_bias_is_named(given: Any, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^logit_bias: {problem}"):
        check_logit_bias(given)


@pytest.mark.parametrize("value", [-1, 21, 1.0, True, "3"])
def test_a_wrong_number_of_likely_tokens_is_named(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"^top_logprobs: must be from 0 to 20, not "):
        check_top_logprobs(value)


def test_a_part_of_a_character_is_told_by_its_bytes() -> None:
    assert TokenLogprob(1, "é".encode()[:1], -1.0).text == "\ufffd"
    assert TokenLogprob(1, b" Oslo", -1.0).text == " Oslo"
