"""Engines that are measured: one that brings tokens at a given pace, and one that drives another without a wire."""

from __future__ import annotations

import resource
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import ENCODE, GENERATE, Delta, EncodeResult, Finished, GenerateRequest, ModelInfo, Started, Stream
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from crayon.engine import EncodeRequest, Engine, Event, ScoreRequest, ScoreResult
    from crayon.errors import CrayonError

STAMP = 16  # digits of a token's text: the nanosecond at which it was pushed
LIMIT = 1 << 20
# What `Driven.encode` is asked for; it answers with one vector of numbers.
USED, DIRECT = "used", "direct"


def stamp() -> str:
    """Return the time as the text of a token; monotonic, the same clock in all processes of a machine."""
    return f"{time.monotonic_ns():0{STAMP}d}"


def ages_ms(text: str) -> list[float]:
    """Return how long ago each token of a text was pushed."""
    now = time.monotonic_ns()
    return [(now - int(text[at : at + STAMP])) / 1e6 for at in range(0, len(text), STAMP)]


class StampedStream(Stream):
    """A stream whose tokens are their own times of birth, and which notes how long each waited to be written."""

    def __init__(self, waits: list[float]) -> None:
        super().__init__()
        self._waits = waits

    def take(self, most: int) -> tuple[list[Event], CrayonError | None]:
        """Return what is there, as `Stream.take`."""
        events, failure = super().take(most)
        for event in events:
            if isinstance(event, Delta):
                self._waits += ages_ms(event.text)
        return events, failure


@dataclass(slots=True, eq=False)
class _Answer:
    stream: StampedStream
    left: int
    written: int = 0


class PacedEngine:
    """Brings one token for each stream, step after step, as a real engine does.

    Args:
        step_seconds: from the start of a step to that of the next.
    """

    def __init__(self, step_seconds: float) -> None:
        self._info = ModelInfo("paced", LIMIT, capabilities=frozenset({GENERATE, ENCODE}))
        self._step = step_seconds
        self._lock = threading.Condition()
        self._answers: list[_Answer] = []
        self._closed = False
        self.waits: list[float] = []
        """Milliseconds from each token's push to its writing."""
        self._thread = threading.Thread(target=self._run, name="crayon-paced", daemon=True)
        self._thread.start()

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the one model."""
        return (self._info,)

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer of `max_tokens` tokens."""
        stream = StampedStream(self.waits)
        stream.push(Started(request.request_id, self._info.name))
        with self._lock:
            self._answers.append(_Answer(stream, request.sampling.max_tokens))
            self._lock.notify()
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Not offered: `models` says so."""
        raise NotImplementedError

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Not offered here: `Driven` answers it."""
        raise NotImplementedError

    def close(self) -> None:
        """End."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            with self._lock:
                while not (self._answers or self._closed):
                    self._lock.wait()
                    due = time.monotonic()
                if self._closed:
                    return
                answers = self._answers.copy()
            ended = {answer for answer in answers if self._push(answer)}
            with self._lock:
                self._answers = [answer for answer in self._answers if answer not in ended]
            due += self._step
            time.sleep(max(0.0, due - time.monotonic()))

    @staticmethod
    def _push(answer: _Answer) -> bool:
        answer.stream.push(Delta(stamp()))
        answer.written += 1
        answer.left -= 1
        if not answer.left:
            answer.stream.push(Finished(FinishReason.LENGTH, Usage(1, answer.written), Timings()))
        return not answer.left or answer.stream.cancelled


@dataclass(slots=True)
class Driven:
    """An engine as it is, but for `encode`, which tells what the process has used, or drives it without a wire.

    `encode(["used"])` gives CPU seconds of this process and the percentiles 50, 99 and 100 of `waits`, which begin
    anew. `encode(["direct", streams, tokens, words])` answers as many requests at once and gives seconds and tokens.
    """

    engine: Engine
    waits: list[float] = field(default_factory=list)

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the engine's."""
        return self.engine.models()

    def generate(self, request: GenerateRequest) -> Stream:
        """Let the engine answer."""
        return self.engine.generate(request)

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Let the engine score."""
        return self.engine.score(request)

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Return numbers about the engine."""
        future: Future[Any] = Future()
        if request.texts[0] == USED:
            future.set_result(_numbers(self._used(), request))
            return future

        def run() -> None:
            streams, tokens = map(int, request.texts[1:3])
            future.set_result(_numbers(drive(self.engine, request.texts[3], streams, tokens), request))

        threading.Thread(target=run, name="crayon-direct", daemon=True).start()
        return future

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _used(self) -> list[float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        waits = np.array(self.waits or [0.0])
        self.waits.clear()
        return [used.ru_utime + used.ru_stime, *np.percentile(waits, [50, 99, 100])]


def drive(engine: Engine, words: str, streams: int, tokens: int) -> list[float]:
    """Answer so many requests at once; return the seconds it took, and the tokens that were written."""
    begin = time.monotonic()
    running = [engine.generate(wanted(words, i, tokens)) for i in range(streams)]
    # Nobody reads meanwhile: what a reader costs is not the engine's.
    while not all(stream.closed for stream in running):
        time.sleep(0.002)
    seconds = time.monotonic() - begin
    written = sum(event.tokens for stream in running for event in stream if isinstance(event, Delta))
    return [seconds, float(written)]


def wanted(words: str, number: int, tokens: int) -> GenerateRequest:
    """Return the request of one stream; its words are its own, so that no prompt's cache serves another."""
    text = f"{number} {words}"
    sampling = Sampling(max_tokens=tokens, ignore_eos=True)
    return GenerateRequest(messages=(Message("user", text),), sampling=sampling, signals=False)


def _numbers(values: list[float], request: EncodeRequest) -> EncodeResult:
    # A vector for each text, as the protocol wants it.
    return EncodeResult(np.array([values] * len(request.texts), dtype=np.float32), Usage(1))
