"""Sampling values: what is out of range is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crayon.errors import InvalidRequestError
from crayon.sampling import SAMPLING_FIELDS, Sampling

EDGES: dict[str, tuple[Any, ...]] = {
    "max_tokens": (1, 2**31 - 1),
    "temperature": (0, 0.0, 5.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.1, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "stop": ((), ("a",) * 16),
    "seed": (None, 0, 2**32 - 2),
    "ignore_eos": (False, True),
}
BEYOND: dict[str, tuple[Any, ...]] = {
    "max_tokens": (0, -1, 2**31, 1.0, True, "9", None),
    "temperature": (-0.1, 5.1, math.nan, math.inf, "hot", None, True),
    "top_p": (-0.1, 1.1, math.nan),
    "top_k": (-1, 2**31, 1.5, False),
    "min_p": (-0.1, 1.1),
    "repeat_penalty": (0.0, 10.1),
    "presence_penalty": (-2.1, 2.1),
    "frequency_penalty": (-2.1, 2.1),
    "stop": ("", ("a", ""), ("a",) * 17, (3,), 5, None, ("\ud800",)),
    "seed": (-1, 2**32 - 1, 1.0, True, "1"),
    "ignore_eos": (0, 1, None, "true"),
}


def test_every_field_is_looked_at() -> None:
    assert set(EDGES) == set(BEYOND) == set(SAMPLING_FIELDS)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in EDGES.items() for value in values])
def test_the_ends_of_a_range_belong_to_it(name: str, value: Any) -> None:
    assert getattr(Sampling(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BEYOND.items() for value in values])
def test_what_is_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Sampling(**{name: value})
    assert caught.value.field == name


def test_a_stop_may_be_one_text_or_a_list() -> None:
    assert Sampling(stop="end").stop == Sampling(stop=["end"]).stop == ("end",)  # type: ignore[arg-type]  # what callers write


def test_greedy_means_no_draw_and_no_penalty() -> None:
    assert Sampling().greedy
    assert not Sampling(temperature=0.1).greedy
    assert not Sampling(presence_penalty=0.5).greedy
