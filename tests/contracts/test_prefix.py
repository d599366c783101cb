"""Which messages a request says that others share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crayon.engine import GenerateRequest, Prefix, ScoreRequest
from crayon.errors import InvalidRequestError
from crayon.messages import Message

MESSAGES = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))


@pytest.mark.parametrize("count", [0, -1, True, 1.0, "1"])
def test_a_prefix_covers_a_number_of_messages_from_one(count: Any) -> None:
    with pytest.raises(InvalidRequestError, match="prefix: must cover at least 1 message"):
        Prefix(count)


@pytest.mark.parametrize("kind", [GenerateRequest, ScoreRequest])
def test_something_must_follow_a_prefix(kind: Any) -> None:
    more = {"continuations": ("a",)} if kind is ScoreRequest else {}
    assert kind(messages=MESSAGES, prefix=Prefix(2, Path("kept")), **more).prefix == Prefix(2, Path("kept"))
    with pytest.raises(InvalidRequestError, match="prefix: covers 3 messages of 3"):
        kind(messages=MESSAGES, prefix=Prefix(3), **more)
