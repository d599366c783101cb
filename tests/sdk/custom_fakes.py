"""A device that has a pool of two members, for queries about colours and about numbers."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from sdk_fakes import DIMENSIONS, SURE, USAGE, Fake, answer, embed, hash_of
from tiny_pool import RANK, TARGETS, shared_pool

from crayon.adapters import EncoderRecord, Gate, Pool
from crayon.engine import ContinuationScore, EverydayStates, ModelInfo, RawStates, ScoreResult
from crayon.errors import PromptTooLongError

TOPICS = ("colour", "number")
LAYER = 1
CENTRE = np.full(DIMENSIONS, 5.0, np.float32)


def make_pool(seed: int = 0, gate: Gate | None = None) -> Pool:
    plain = shared_pool(Path("tiny"), len(TOPICS), sha256="0" * 64)
    manifest = replace(
        plain.manifest,
        encoder=EncoderRecord(layer=LAYER, dimensions=DIMENSIONS),
        members=tuple(
            replace(member, name=topic) for member, topic in zip(plain.manifest.members, TOPICS, strict=True)
        ),
        gate=gate or Gate(temperature=0.1, sharpen=0.9, floor=0.3),
        tensors_sha256="",
    )
    b = np.random.default_rng(seed).normal(size=(2, sum(target.outputs * RANK for target in TARGETS)))
    return Pool.shared(manifest, b.astype(np.float32), keys=np.eye(2, DIMENSIONS, dtype=np.float32), centre=CENTRE)


def topic_vector(text: str) -> np.ndarray:
    """Direction 0 for colours, 1 for numbers, between them for both, one of its own for anything else."""
    topics = [i for i, topic in enumerate(TOPICS) if topic in text]
    if not topics:
        return embed(text)
    row = np.random.default_rng(hash_of(text)).normal(scale=0.2 if len(topics) == 1 else 0.02, size=DIMENSIONS)
    row[topics] += 1.0
    return row / np.linalg.norm(row)


BACKGROUND = np.stack([np.roll(np.linspace(-1, 1, DIMENSIONS) ** 3, i) for i in range(8)])


@dataclass
class Device(Fake):
    """A `Fake` that blends pools, as `DeviceEngine` does."""

    pools: tuple[Pool, ...] = field(default_factory=lambda: (make_pool(),))
    raw: list = field(default_factory=list)

    def __post_init__(self):
        self.vectors = self.vectors or (lambda text: topic_vector(text) - BACKGROUND.mean(axis=0))

    def score(self, request, *, ended=False):
        """Each text is as likely as it is short; its end, where asked for, is as likely after each."""
        self.scored.append(request)
        future = Future()
        tail = (-1.0,) if ended else ()
        scores = tuple(ContinuationScore((-float(len(text)), *tail)) for text in request.continuations)
        future.set_result(ScoreResult(scores, USAGE, self.name))
        return future

    def encode_raw(self, request):
        self.raw.append(request)
        future = Future()
        if self.encode_error is not None:
            future.set_exception(self.encode_error)
            return future
        states = np.stack([topic_vector(text) for text in request.texts]) + CENTRE
        future.set_result(RawStates(states.astype(np.float32), (BACKGROUND + CENTRE).astype(np.float32), LAYER))
        return future


def about(topic: str, count: int = 8) -> list[tuple[str, str]]:
    return [(f"which {topic} has thing {i}", ("red", "green")[i % 2]) for i in range(count)]


def asked(topic: str, count: int = 8) -> list[str]:
    """Questions without answers: nothing can be tried on them, so the blend is all that a customisation holds."""
    return [question for question, _ in about(topic, count)]


ANSWERS = ("red", "green")


@dataclass
class Closed(Device):
    """Knows the answer to "... thing 3", or, if it `reads`, only behind examples; `room` is in messages."""

    name: str = "small"
    scripts: list = field(default_factory=lambda: [answer("a b", SURE)])
    reads: bool = False
    lead: float = 8.0
    room: int = 1000

    def models(self):
        return (ModelInfo(self.name, 1024, "0" * 64, "Q8_0"),)

    def encode_raw(self, request):
        """As without a pool: everyday texts give the centre and the head."""
        future = super().encode_raw(request)
        if not request.everyday:
            return future
        groups = tuple(
            np.stack([topic_vector(f"everyday {i} {j}") for j in range(4)]).astype(np.float32) + CENTRE
            for i in range(8)
        )
        told = Future()
        told.set_result(replace(future.result(), everyday=EverydayStates(groups, "everyday")))
        return told

    def score(self, request, *, ended=False):
        self.scored.append(request)
        future = Future()
        if len(request.messages) > self.room:
            future.set_exception(PromptTooLongError(99, 50, "continuations[1]"))
            return future
        right = ANSWERS[int(request.messages[-1].content.split()[-1]) % 2]
        knows = not self.reads or len(request.messages) > 2
        tail = (-0.5,) if ended else ()
        scores = tuple(
            ContinuationScore((-1.0 if (text == right) is knows else -1.0 - self.lead, *tail))
            for text in request.continuations
        )
        future.set_result(ScoreResult(scores, USAGE, self.name))
        return future
