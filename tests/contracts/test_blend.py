from __future__ import annotations

from typing import Any

import pytest

from crayon.completion import MAX_WEIGHTS, Blend
from crayon.errors import InvalidRequestError


def test_weights_become_a_tuple_of_floats() -> None:
    weights: Any = [1, 0.5]
    assert Blend("pool", weights).weights == (1.0, 0.5)


@pytest.mark.parametrize(
    ("pool_id", "weights", "field"),
    [
        ("", (1.0,), "blend.pool_id"),
        (7, (1.0,), "blend.pool_id"),
        ("x" * 257, (1.0,), "blend.pool_id"),
        ("pool", (), "blend.weights"),
        ("pool", "1", "blend.weights"),
        ("pool", (1.0,) * (MAX_WEIGHTS + 1), "blend.weights"),
        ("pool", (1.0, float("nan")), "blend.weights[1]"),
        ("pool", (float("inf"),), "blend.weights[0]"),
        ("pool", (True,), "blend.weights[0]"),
    ],
)
def test_bad_blends_are_refused_by_field(pool_id: Any, weights: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Blend(pool_id, weights)
    assert caught.value.field == field
