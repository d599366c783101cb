"""Sides that are right and sure as their questions say: "... sure good 3", with choices or with a text."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from custom_fakes import Device
from sdk_fakes import DONE, USAGE, FakeServer, answer

from crayon.engine import ContinuationScore, ModelInfo, ScoreResult

ANSWERS = ("red", "green")


def question(topic: str, i: int, *, sure: bool, right: bool) -> str:
    return f"which {topic} has thing {i} {'sure' if sure else 'doubt'} {'good' if right else 'bad'}"


def samples(topic: str = "colour", count: int = 40, *, noise: int = 8) -> list[dict]:
    """Half of them sure; sure ones are right, unsure ones wrong, but for two of every `noise`."""
    found = []
    for i in range(count):
        sure = i % 2 == 0
        right = sure != (i % noise < 2)
        found.append({"question": question(topic, i, sure=sure, right=right), "answer": ANSWERS[i // 2 % 2]})
    return found


def truth(text: str) -> str:
    return ANSWERS[int(text.split()[4]) // 2 % 2]


@dataclass
class Choosing(Device):
    """Takes the right choice where the question says good, with a margin that says how sure it is."""

    sha: str = "0" * 64  # of the model that the pool is for

    def models(self):
        return (ModelInfo(self.name, 1024, self.sha, "Q8_0"),)

    def score(self, request, *, ended=False):
        self.scored.append(request)
        text = request.messages[-1].content
        best = truth(text) if "good" in text else next(a for a in ANSWERS if a != truth(text))
        lead = 3.0 if "sure" in text else 0.2
        tail = (-0.5,) if ended else ()
        scores = tuple(ContinuationScore((-1.0 if c == best else -1.0 - lead, *tail)) for c in request.continuations)
        future = Future()
        future.set_result(ScoreResult(scores, USAGE, self.name))
        return future


@dataclass
class Writing(Choosing):
    """Writes its answer, token by token as sure as the question says."""

    def generate(self, request):
        text = request.messages[-1].content
        if "good" in text or "bad" in text:
            best = truth(text) if "good" in text else "something else"
            self.scripts = [answer(best, -0.05 if "sure" in text else -3.0)]
        return super().generate(request)


@dataclass
class Knowing(FakeServer):
    """Knows everything, or nothing; its model has a name that may change."""

    knows: bool = True
    misses: tuple = (3, 6, 9)  # last digits of things that it is wrong about
    model: str = "large"
    scores: object = None
    asked_models: int = 0

    def right(self, text):
        return self.knows and int(text.split()[4]) % 10 not in self.misses

    def models(self):
        self.asked_models += 1
        return (ModelInfo(self.model, 1024),)

    def score(self, request):
        self.scored.append(request)
        future = Future()
        if self.scores is not None:
            future.set_result(ScoreResult(tuple(self.scores), USAGE, self.name))
            return future
        text = request.messages[-1].content
        best = truth(text)
        scores = tuple(
            ContinuationScore((-0.1 if (c == best) == self.right(text) else -4.0,)) for c in request.continuations
        )
        future.set_result(ScoreResult(scores, USAGE, self.name))
        return future

    def generate(self, request):
        text = request.messages[-1].content
        if "good" in text or "bad" in text:
            self.scripts = [[*answer(f" {truth(text).title()}. " if self.right(text) else "no idea")[:-1], DONE]]
        return super().generate(request)
