"""What the device's tests share."""

from __future__ import annotations

import math
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

    @property
    def logprobs(self) -> list[float]:
        """The log-probability of each token."""
        return [signal.logprob for signal in self.signals]

    @property
    def steady(self) -> bool:
        """Whether no second choice came so near that another order of summation might take it instead."""
        best = [math.exp(signal.logprob) for signal in self.signals]
        return all(p > signal.margin + 1e-9 and math.log(p / (p - signal.margin)) > 0.15
                   for p, signal in zip(best, self.signals, strict=True))  # fmt: skip


def steady_answers(engine: Engine, n: int, max_tokens: int = 8, **values: Any) -> dict[str, Answer]:
    """Answers to `n` prompts, that must come out the same whatever else the engine does."""
    found: dict[str, Answer] = {}
    for i in range(200):
        text = f"Question {i}: {'tell me ' * (i % 5)}why?"
        answer = Answer(engine, ask(text, max_tokens=max_tokens, **values))
        if answer.steady:
            found[text] = answer
        if len(found) == n:
            return found
    raise AssertionError("too few steady prompts")
