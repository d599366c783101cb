"""An engine without a model: it says back the last message, word by word.

A stand-in for tests and for trying out clients and deployments. Words count as tokens, and signals, scores and vectors
are fixed functions of the text (hashes), with the right shapes and no meaning. A word's number is a hash too
(`word_token`), and a word whose logit is lowered by 100 is not said. Under a constraint it writes a short
text that fits, and where it has to call a tool, a call; thoughts and calls are read as Qwen's are. Everything else
behaves like a real engine: limits, deadlines, cancellation, stop texts.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
import time
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from crayon.completion import FinishReason, Timings, Usage
from crayon.constraints.instance import Instances
from crayon.constraints.shown import shown
from crayon.engine import (
    BLEND,
    CONSTRAIN,
    ENCODE,
    GENERATE,
    SCORE,
    ContinuationScore,
    Delta,
    EncodeRequest,
    EncodeResult,
    Finished,
    GenerateRequest,
    ModelInfo,
    ScoreRequest,
    ScoreResult,
    Started,
    Stream,
    TokenSignal,
    needs,
)
from crayon.errors import (
    CancelledError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    OverloadedError,
    PromptTooLongError,
    UnknownModelError,
)
from crayon.families import Dialogue, tool_grammar
from crayon.messages import question
from crayon.server.observability.stats import EngineStats
from crayon.stream import Promise
from crayon.token_options import MAX_BIAS, MAX_TOP_LOGPROBS, TokenLogprob, check_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from crayon.messages import Message

Result = TypeVar("Result", ScoreResult, EncodeResult)

DIMENSIONS = 32
VOCABULARY = 50_000
MOST_MADE = 1024
"""Bytes of an answer under a constraint."""


class _Job:
    """One running request: its patience, and a switch that ends it."""

    def __init__(self, engine: EchoEngine, deadline: float | None) -> None:
        self.engine = engine
        self.deadline = deadline
        self.started = time.monotonic()
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def pause(self, seconds: float, partial: str = "") -> None:
        """Wait like an engine that computes; raise as soon as nobody wants the result any more."""
        left = math.inf if self.deadline is None else self.deadline - time.monotonic()
        if self._stopped.wait(max(0.0, min(seconds, left))):
            raise self.engine.stopped_error()
        if left <= seconds:
            raise DeadlineExceededError("the deadline passed while the answer was being made", partial)


class EchoEngine:
    """Says back the user's last message.

    Args:
        name: the model name it answers to.
        delay: seconds for each word, and for each score or encode request.
        context_tokens: most words of one request, prompt and answer together.
        slots: most requests at once; one more is refused with OverloadedError.
    """

    def __init__(self, *, name: str = "echo", delay: float = 0.0, context_tokens: int = 4096, slots: int = 64) -> None:
        capabilities = frozenset({GENERATE, SCORE, ENCODE, BLEND, CONSTRAIN})
        self._info = ModelInfo(name=name, context_tokens=context_tokens, capabilities=capabilities)
        self._delay = delay
        self._slots = slots
        self._instances = Instances()
        self._dialogue = Dialogue.plain()
        self._lock = threading.Lock()
        self._jobs: dict[_Job, threading.Thread] = {}
        self._closed = False

    @property
    def running(self) -> int:
        """How many requests hold a slot."""
        with self._lock:
            return len(self._jobs)

    def stats(self) -> EngineStats:
        """Return how many requests run; nobody waits here."""
        return EngineStats(running=len(self._jobs))

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the one model."""
        return (self._info,)

    def generate(self, request: GenerateRequest) -> Stream:
        """Start saying the last message back.

        Raises:
            PromptTooLongError: the messages leave no room for a word.
            UnknownModelError: `request.model` is another name.
            OverloadedError: every slot is taken.
            InvalidRequestError: the constraint cannot be kept, or a biased token is none.
        """
        check_vocabulary(request.logit_bias, VOCABULARY)
        prompt_words = self._check(request.model, request.messages)
        told = shown(request.messages, request.constraint)
        shown_words = self._check(request.model, told) - prompt_words
        job = _Job(self, request.deadline)
        speech = self._dialogue.speech(request)
        stream = speech.stream(job.stop)
        made = None
        held = request.constraint
        if request.tools is not None and request.tools.has_to:
            held = tool_grammar(self._dialogue.family, request.tools)
        if held is not None:
            made = self._instances.of(held, MOST_MADE)
        self._run(job, lambda: self._answer(job, stream, request, prompt_words + shown_words, shown_words, made))
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Score each word by whether the prompt has it.

        Raises:
            PromptTooLongError, UnknownModelError, OverloadedError: as in `generate`.
        """
        prompt_words = self._check(request.model, request.messages)

        def compute() -> ScoreResult:
            known = {word.strip() for message in request.messages for word in _words(message.content)}
            scores = tuple(
                ContinuationScore(tuple(-0.5 if word.strip() in known else -3.0 for word in _words(text)))
                for text in request.continuations
            )
            usage = Usage(prompt_words + sum(len(score.token_logprobs) for score in scores))
            return ScoreResult(scores, usage, self._info.name)

        return self._future(request.deadline, compute)

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Embed each text as its hashed words.

        Raises:
            UnknownModelError, OverloadedError: as in `generate`.
        """
        self._check(request.model, ())

        def compute() -> EncodeResult:
            vectors = np.stack([_vector(text) for text in request.texts])
            words = sum(len(_words(text)) for text in request.texts)
            return EncodeResult(vectors, Usage(words), self._info.name)

        return self._future(request.deadline, compute)

    def close(self) -> None:
        """End what runs and wait for its threads. Safe to call twice."""
        with self._lock:
            self._closed = True
            jobs = dict(self._jobs)
        for job in jobs:
            job.stop()
        for thread in jobs.values():
            if thread is not threading.current_thread():
                thread.join()

    def stopped_error(self) -> CrayonError:
        """Return why a running job was stopped: closed from here, or cancelled from outside."""
        if self._closed:
            return EngineClosedError("the echo engine was closed")
        return CancelledError("the caller cancelled")

    def _check(self, model: str, messages: tuple[Message, ...]) -> int:
        if model not in {"", self._info.name}:
            raise UnknownModelError(f"model {model!r} is not served here; there is: {self._info.name}")
        prompt_words = sum(len(_words(text)) for message in messages for text in message.texts)
        if prompt_words >= self._info.context_tokens:
            raise PromptTooLongError(prompt_words, self._info.context_tokens - 1)
        return prompt_words

    def _run(self, job: _Job, work: Callable[[], None]) -> None:
        def body() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._jobs.pop(job, None)

        thread = threading.Thread(target=body, name="crayon-echo", daemon=True)
        with self._lock:
            if self._closed:
                raise EngineClosedError("the echo engine was closed")
            if len(self._jobs) >= self._slots:
                raise OverloadedError(f"all {self._slots} slots are taken", retry_after=1.0)
            self._jobs[job] = thread
            thread.start()

    def _future(self, deadline: float | None, compute: Callable[[], Result]) -> Future[Result]:
        job = _Job(self, deadline)
        promise = Promise[Result](on_cancel=job.stop)

        def work() -> None:
            try:
                job.pause(self._delay)
                result = compute()
            except CrayonError as error:
                promise.fail(error)
            else:
                promise.succeed(result)

        self._run(job, work)
        return promise.future

    def _answer(
        self,
        job: _Job,
        stream: Stream,
        request: GenerateRequest,
        prompt_words: int,
        shown_words: int,
        made: tuple[str, bool] | None,
    ) -> None:
        text, whole = (question(request.messages), True) if made is None else made
        words, reason = _echo(request, text, self._info.context_tokens - prompt_words)
        reason = reason if whole else FinishReason.LENGTH
        said = 0
        first_at = job.started
        try:
            stream.push(
                Started(
                    request.request_id, self._info.name, request.blend, request.constraint is not None, needs(request)
                )
            )
            for word in words:
                job.pause(self._delay, "".join(words[:said]))
                first_at = time.monotonic() if said == 0 else first_at
                signals = (_signal(word),) if request.signals else ()
                top = request.top_logprobs
                stream.push(Delta(word, signals, logprobs=() if top is None else (_logprob(word, top),)))
                said += 1
        except CrayonError as error:
            stream.fail(error)
            return
        now = time.monotonic()
        # A word is a step; the first one comes of reading the prompt.
        timings = Timings(
            prompt_ms=1000 * (first_at - job.started),
            decode_ms=1000 * (now - first_at),
            prompt_steps=min(said, 1),
            decode_steps=max(said - 1, 0),
        )
        stream.push(Finished(reason, Usage(prompt_words, said, shown_tokens=shown_words), timings))


def _words(text: str) -> list[str]:
    """Split so that joining gives the text back."""
    return re.findall(r"\s*\S+\s*$|\s*\S+|\s+$", text)


def _echo(request: GenerateRequest, text: str, room: int) -> tuple[list[str], FinishReason]:
    ends = [at for at in (text.find(stop) for stop in request.sampling.stop) if at >= 0]
    banned = {token for token, bias in request.logit_bias if bias <= -MAX_BIAS}
    words = [word for word in _words(text[: min(ends)] if ends else text) if word_token(word) not in banned]
    most = min(request.sampling.max_tokens, room)
    if request.sampling.ignore_eos and words and not ends:
        words = list(itertools.islice(itertools.cycle(words), most + 1))  # it has no other words
    return words[:most], FinishReason.LENGTH if len(words) > most else FinishReason.STOP


def _hash(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**32


def word_token(word: str) -> int:
    """Return the number of a word, whatever space is around it."""
    return int(_hash(word.strip()) * VOCABULARY)


def _logprob(word: str, top: int) -> TokenLogprob:
    """Return what is told of a word: it is the likeliest, and its repetitions share what it leaves."""
    sure = math.exp(_signal(word).logprob)
    least = math.log(max((1.0 - sure) / MAX_TOP_LOGPROBS, 1e-9))
    others = [word * (2 + i) for i in range(max(top - 1, 0))]
    told = TokenLogprob(word_token(word), word.encode(), math.log(sure))
    rest = (TokenLogprob(word_token(other), other.encode(), least) for other in others)
    return replace(told, top=(told, *rest)[:top])


def _signal(word: str) -> TokenSignal:
    sure = 0.5 + 0.5 * _hash(word.strip())
    return TokenSignal(logprob=math.log(sure), entropy=2.0 * (1.0 - sure), margin=2.0 * sure - 1.0)


def _vector(text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    for word in _words(text.lower()):
        vector[int(_hash(word.strip()) * DIMENSIONS)] += 1.0
    return vector / np.float32(np.linalg.norm(vector))
