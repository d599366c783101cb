"""What engines under our scheduler have in common: requests become tasks for a loop, and results come back."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from crayon.blending import Lease
from crayon.constraints import Constraining, read_prompt
from crayon.context_limit import check_continuations, check_prompt
from crayon.engine import (
    BLEND,
    CONSTRAIN,
    ENCODE,
    GENERATE,
    SCORE,
    EncodeRequest,
    EncodeResult,
    GenerateRequest,
    ModelInfo,
    ScoreRequest,
    ScoreResult,
    Stream,
)
from crayon.errors import AdapterError, EngineClosedError, PromptTooLongError, UnknownModelError
from crayon.families import Dialogue
from crayon.llama.signals import SignalMeter
from crayon.llama.vocabulary import ModelVocabulary
from crayon.server.engines.llama.tasks import EncodeTask, GenerateTask, ScoreTask
from crayon.server.scheduler import Kind, Request
from crayon.stream import Promise
from crayon.token_options import check_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.errors import CrayonError
    from crayon.messages import Message
    from crayon.server.engines.llama.counters import Counters
    from crayon.server.engines.llama.encoder import CentredEncoder
    from crayon.server.engines.llama.held import OpenEngine
    from crayon.server.engines.llama.loop import LlamaLoop
    from crayon.server.engines.llama.tasks import Task
    from crayon.server.observability.stats import EngineStats


class ScheduledEngine(ABC):
    """An `Engine` that reads and writes text with llama.cpp's vocabulary, whoever computes.

    Args:
        name: what requests and answers call the model.
        held: the model and what runs on it; freed at the end.
        loop: what computes; ended at the end.
        context_tokens: most tokens that one request may hold.
        encode_tokens: the same of a text to encode.
        source_sha256, quantization: told to clients.
        mixed: whether requests of different blends share engine calls.
    """

    def __init__(
        self,
        name: str,
        held: OpenEngine,
        loop: LlamaLoop,
        *,
        context_tokens: int,
        encode_tokens: int,
        source_sha256: str,
        quantization: str,
        mixed: bool = False,
    ) -> None:
        self._name = name
        self._held = held
        self._model = held.model
        self._loop = loop
        self.context_tokens = context_tokens
        self._encode_tokens = encode_tokens
        self._mixed = mixed
        self._lock = threading.Condition()
        self._callers = 0
        self._ids = map(str, itertools.count())  # not the callers' own: two may use the same
        self._closed = False
        self._process = os.getpid()
        self._meter = SignalMeter(self._model.n_vocab)
        self._constraining = Constraining(ModelVocabulary(self._model))
        capabilities = frozenset({GENERATE, SCORE, ENCODE, CONSTRAIN} | ({BLEND} if held.blends is not None else set()))
        self._info = ModelInfo(name, context_tokens, source_sha256, quantization, capabilities)
        # Who drops an engine without closing it does not keep its model: the thread ends and frees it.
        self._dropped = weakref.finalize(self, loop.release, held.free)
        self._dropped.atexit = False

    # -- the engine contract

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the one model that is served."""
        return (self._info,)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The adapter pools that requests may blend."""
        return self._held.blends.pools if self._held.blends is not None else ()

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer.

        Raises:
            UnknownModelError: another model is asked for.
            AdapterError: the blend is of no pool here, or does not fit it.
            PromptTooLongError: the prompt leaves no room for an answer.
            OverloadedError: too many requests wait.
            EngineClosedError: the engine is closed.
            InvalidRequestError: the constraint cannot be kept, or the model has no such token as is biased.
        """
        with self._calling(request.model):
            check_vocabulary(request.logit_bias, self._model.n_vocab)
            speech = self._dialogue.speech(request)
            ids, told = read_prompt(speech.messages, request.constraint, partial(self._prompt, tools=speech.tools))
            blend, hold = self._resolve(request.blend)
            held = speech.constraint
            rule = None if held is None else self._constraining.matcher(held, checked=speech.checked)
        stream = speech.stream(lambda: self._loop.queue.cancel(task))
        entry = Request(
            id=next(self._ids),
            kind=Kind.GENERATE,
            prompt=len(ids),
            max_tokens=min(request.sampling.max_tokens, self.context_tokens - len(ids)),
            blend=blend,
            mixed=self._mixed,
            client=request.client,
            deadline=request.deadline,
        )
        task = GenerateTask(
            entry=entry,
            model_name=self._name,
            request=request,
            ids=ids,
            stream=stream,
            model=self._model,
            meter=self._meter,
            hold=hold,
            rule=rule,
            shown=told,
            marks=self._marks,
        )
        if task.complete:
            task.start()
            task.end()
            task.close()
        else:
            self._submit(task)
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Score continuations of one prompt, which is computed once.

        Raises:
            UnknownModelError, AdapterError, OverloadedError, EngineClosedError: as `generate`.
            PromptTooLongError: the prompt and a continuation do not fit.
        """
        with self._calling(request.model):
            ids = self._prompt(request.messages)
            blend, hold = self._resolve(request.blend)
            self._check_parts(Kind.SCORE, request.continuations, self.context_tokens)
            continuations = [self._model.tokenize_answer(text, ids) for text in request.continuations]
        check_continuations(len(ids), continuations, self.context_tokens)
        promise = Promise[ScoreResult](lambda: self._loop.queue.cancel(task), used=lambda: entry.read)
        entry = Request(
            id=next(self._ids),
            kind=Kind.SCORE,
            prompt=len(ids),
            branches=ScoreTask.branches(continuations),
            blend=blend,
            mixed=self._mixed,
            client=request.client,
            deadline=request.deadline,
        )
        task = ScoreTask(
            entry=entry,
            model_name=self._name,
            prompt=ids,
            continuations=continuations,
            promise=promise,
            hold=hold,
        )
        self._submit(task)
        return promise.future

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Embed texts: sink-free, centred unit vectors of the model's middle layer.

        Raises:
            UnknownModelError, OverloadedError, EngineClosedError: as `generate`.
            PromptTooLongError: a text does not fit; the field names it.
        """
        with self._calling(request.model):
            encoder = self._make_encoder()
            self._check_parts(Kind.ENCODE, request.texts, self._encode_tokens)
            texts = [encoder.tokenize(text) for text in request.texts]
        for i, text in enumerate(texts):
            if len(text) > self._encode_tokens:
                raise PromptTooLongError(len(text), self._encode_tokens, f"texts[{i}]")
        unknown = encoder.unknown()
        lists = [*texts, *unknown.values()]
        promise = Promise[EncodeResult](lambda: self._loop.queue.cancel(task), used=lambda: entry.read)
        entry = Request(
            id=next(self._ids),
            kind=Kind.ENCODE,
            prompt=0,
            branches=tuple(len(text) for text in lists),
            client=request.client,
            deadline=request.deadline,
        )
        task = EncodeTask(
            entry=entry,
            model_name=self._name,
            texts=lists,
            background=list(unknown),
            encoder=encoder,
            promise=promise,
        )
        self._submit(task)
        return promise.future

    def on_failure(self, tell: Callable[[CrayonError], None]) -> None:
        """Call `tell` once, from any thread, if the engine breaks down; at once if it has. It then answers nothing."""
        self._loop.queue.on_failure(tell)

    def close(self) -> None:
        """End what runs and free the model. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._dropped.detach()
        self._loop.close()
        with self._lock:
            self._lock.wait_for(lambda: self._callers == 0)  # they may be reading the vocabulary
        self._held.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def counters(self) -> Counters:
        """What has been computed since the engine was opened."""
        return self._loop.counters

    def stats(self) -> EngineStats:
        """Return the numbers as of now, from any thread."""
        return self._loop.stats(None if self._held.blends is None else self._held.blends.loaded)

    @contextmanager
    def _calling(self, model: str) -> Iterator[None]:
        """Check what every request names, and hold `close` off while the model is read."""
        if os.getpid() != self._process:  # neither the thread nor who held the lock came along
            raise EngineClosedError("the engine was opened before the process forked; open it after forking")
        with self._lock:
            if self._closed:
                raise EngineClosedError("the engine is closed")
            self._callers += 1
        try:
            if model not in {"", self._name}:
                raise UnknownModelError(f"model {model!r} is not served here; there is: {self._name}")
            yield
        finally:
            with self._lock:
                self._callers -= 1
                self._lock.notify_all()

    def _resolve(self, blend: Blend | None) -> tuple[str, Callable[[], Lease]]:
        """Return what the scheduler calls the blend ("" is the base), and what loads its adapters."""
        if blend is None:
            return "", Lease
        if self._held.blends is None:
            raise AdapterError(f"no adapter pool is loaded on the server, so {blend.pool_id!r} cannot be blended")
        blends, normal = self._held.blends, self._held.blends.normal(blend)
        # Its own name: another blend under the same would be computed with this one's adapters.
        return ("", Lease) if normal is None else (repr(normal), lambda: blends(normal))

    @functools.cached_property
    def _dialogue(self) -> Dialogue:
        return Dialogue(self._model.template, self._model.unseen)

    @functools.cached_property
    def _marks(self) -> dict[int, bytes]:
        return {self._model.unseen[mark]: mark.encode() for mark in self._dialogue.marks}

    def _prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        # By its length alone: what no context could hold is not read.
        least = self._model.least_tokens(text for message in messages for text in message.texts)
        if least >= self.context_tokens:
            raise PromptTooLongError(least, self.context_tokens - 1)
        ids = self._model.tokenize_chat(messages, tools)
        check_prompt(ids, self.context_tokens)
        return ids

    def _check_parts(self, kind: Kind, texts: Sequence[str], most: int) -> None:
        """Refuse by their lengths alone what cannot fit, one by one or in all; it is not read."""
        total = 0
        for i, text in enumerate(texts):
            least = self._model.least_tokens((text,))
            if least > most:
                field = "texts" if kind is Kind.ENCODE else "continuations"
                raise PromptTooLongError(least, most, f"{field}[{i}]")
            total += least
        if len(texts) > 1:
            self._loop.queue.bounds.check_size(kind, total)

    def _submit(self, task: Task) -> None:
        task.entry.arrival = task.submitted
        self._loop.queue.submit(task)

    def _make_encoder(self) -> CentredEncoder:
        # Made at the first use: it takes memory that most servers never need.
        with self._lock:
            if self._held.encoder is None:
                self._held.encoder = self._open_encoder()
            return self._held.encoder

    @abstractmethod
    def _open_encoder(self) -> CentredEncoder:
        """Return the encoder; asked for once.

        Raises:
            EngineError: no memory for it.
        """
