"""What the device's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crayon.engine import Delta, Finished, GenerateRequest, Started
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from crayon.engine import Engine

BACKGROUND = (
    "The train leaves at half past seven from platform two.",
    "Mix the flour with two eggs and a little milk.",
    "Interest rates were left unchanged by the central bank.",
    "Photosynthesis turns light into chemical energy.",
    "She scored twice in the second half of the match.",
    "How do I reset the password of my account?",
    "The treaty was signed in the spring of 1648.",
    "def add(a, b): return a + b",
)


def ask(text: str, **values: Any) -> GenerateRequest:
    """A request of one user message; keywords that are no field of it are sampling values."""
    fields = {name: values.pop(name) for name in ("blend", "deadline", "model") if name in values}
    return GenerateRequest(messages=(Message("user", text),), sampling=Sampling(**values), **fields)


class Answer:
    """All events of one answer, checked for their order."""

    def __init__(self, engine: Engine, request: GenerateRequest) -> None:
        events = list(engine.generate(request))
        started, *deltas, finished = events
        assert isinstance(started, Started)
        assert isinstance(finished, Finished)
        self.deltas = [event for event in deltas if isinstance(event, Delta)]
        assert len(self.deltas) == len(deltas)
        self.started, self.finished = started, finished
        self.text = "".join(delta.text for delta in self.deltas)
        self.signals = [signal for delta in self.deltas for signal in delta.signals]
