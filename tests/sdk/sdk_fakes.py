"""Engines that do what a test tells them, on a thread of their own like the real ones."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import (
    ContinuationScore,
    Delta,
    EncodeResult,
    Finished,
    ModelInfo,
    ScoreResult,
    Started,
    Stream,
    TokenSignal,
    needs,
)
from crayon.errors import CrayonError, EngineClosedError

SURE, UNSURE = -0.05, -3.0
USAGE = Usage(prompt_tokens=5, completion_tokens=3)
TIMINGS = Timings(1.0, 2.0, 3.0)
DONE = Finished(FinishReason.STOP, USAGE, TIMINGS)
DIMENSIONS = 16


def delta(text: str, logprob: float = SURE) -> Delta:
    return Delta(text, (TokenSignal(logprob, 0.1, 0.9),))


def answer(text: str, logprob: float = SURE) -> list:
    """One delta a word."""
    words = text.split(" ")
    return [delta(word if i == 0 else f" {word}", logprob) for i, word in enumerate(words)] + [DONE]


class Hang:
    """In a script: wait until the stream is cancelled."""


@dataclass
class Fake:
    """An `Engine`. Each generate call takes the next script: events, errors to fail with, `Hang`.

    A script that is an error is raised by `generate` itself. The last script is used again and again.
    """

    name: str
    scripts: list = field(default_factory=lambda: [answer("hello from here")])
    vectors: object = None
    encode_error: CrayonError | None = None
    requests: list = field(default_factory=list)
    encoded: list = field(default_factory=list)
    scored: list = field(default_factory=list)
    streams: list = field(default_factory=list)
    blend_applied: bool = True
    constrained: bool = True
    tools_kept: bool = True
    closed: int = 0

    def models(self):
        return (ModelInfo(self.name, 1024),)

    def generate(self, request):
        if self.closed:
            raise EngineClosedError("closed")
        self.requests.append(request)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if isinstance(script, CrayonError):
            raise script
        gone = threading.Event()
        stream = Stream(on_cancel=gone.set)
        self.streams.append(stream)
        threading.Thread(target=self._play, args=(stream, gone, request, script), daemon=True).start()
        return stream

    def _play(self, stream, gone, request, script):
        if script and script[0] != "silent":
            blend = request.blend if self.blend_applied else None
            kept = request.constraint is not None and self.constrained
            told = needs(request) if self.tools_kept else frozenset()
            stream.push(Started(request.request_id, self.name, blend, kept, told))
        for step in script:
            if gone.is_set():
                return
            if step == "silent":
                continue
            if step is Hang:
                gone.wait(30)
                return
            if isinstance(step, threading.Event):
                step.wait(30)
            elif isinstance(step, CrayonError):
                stream.fail(step)
            elif step == "end":
                with stream._ready:
                    stream._closed = True
                    stream._wake()
            else:
                stream.push(step)

    def score(self, request):
        self.scored.append(request)
        future = Future()
        scores = tuple(ContinuationScore((-float(len(text)),)) for text in request.continuations)
        future.set_result(ScoreResult(scores, USAGE, self.name))
        return future

    def encode(self, request):
        self.encoded.append(request)
        future = Future()
        if self.encode_error is not None:
            future.set_exception(self.encode_error)
        elif self.vectors is Hang:
            pass
        else:
            rows = np.stack([(self.vectors or embed)(text) for text in request.texts])
            future.set_result(EncodeResult(rows.astype(np.float32), USAGE, self.name))
        return future

    def close(self):
        self.closed += 1


@dataclass
class State:
    state: str = "closed"


@dataclass
class FakeServer(Fake):
    """A `Fake` with what a remote engine has beyond the contract."""

    address: str = "server.test:1"
    breaker: State = field(default_factory=State)

    def request_bytes(self, request):
        return sum(len(message.content.encode()) for message in request.messages)


def embed(text: str) -> np.ndarray:
    """Direction 0 for texts that speak of a colour, a direction of their own for others; never twice the same."""
    rng = np.random.default_rng(abs(hash_of(text)))
    row = rng.normal(scale=0.1, size=DIMENSIONS)
    row[0] += 1.0 if "colour" in text else 0.0
    row[1 + hash_of(text) % (DIMENSIONS - 1)] += 0.0 if "colour" in text else 1.0
    return row / np.linalg.norm(row)


def hash_of(text: str) -> int:
    return sum((i + 1) * byte for i, byte in enumerate(text.encode()))


COLOURS = tuple(
    f"which colour is a {thing}" for thing in ["leaf", "sky", "rose", "stone", "coal", "snow", "lemon", "brick", "plum"]
)


class Sync:
    """Drives either client from a plain test: `Crayon` as it is."""

    def __init__(self):
        from crayon import Crayon

        self.client_class = Crayon

    def make(self, *args, **options):
        return self.client_class(*args, **options)

    def call(self, result):
        return result

    def read(self, stream, limit=None):
        pieces = []
        for piece in stream:
            pieces.append(piece)
            if limit is not None and len(pieces) >= limit:
                break
        return pieces

    def call_or_value(self, result):
        """For calls that are plain on both clients, such as `stream`, and for those that are not."""
        return result

    def shut_stream(self, stream):
        stream.close()

    def shut(self):
        pass


class Async(Sync):
    """`AsyncCrayon`, on one event loop a test."""

    def __init__(self):
        import asyncio

        from crayon import AsyncCrayon

        self.client_class = AsyncCrayon
        self.runner = asyncio.Runner()

    def call(self, result):
        async def wait():
            return await result

        return self.runner.run(wait())

    def read(self, stream, limit=None):
        async def collect():
            pieces = []
            with contextlib.suppress(StopAsyncIteration):
                while limit is None or len(pieces) < limit:
                    pieces.append(await anext(stream))
            return pieces

        return self.runner.run(collect())

    def call_or_value(self, result):
        return self.call(result) if hasattr(result, "__await__") else result

    def shut_stream(self, stream):
        self.call(stream.close())

    def shut(self):
        self.runner.close()
