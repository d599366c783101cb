"""The on-device runtime: chat, scores and embeddings from one small model on llama.cpp."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from crayon.completion import FinishReason, Timings, Usage
from crayon.data.texts import background_texts
from crayon.device import opening
from crayon.device.encoder import Encoder
from crayon.device.job import Job
from crayon.device.slots import Slot, SlotTable
from crayon.device.turns import Turns
from crayon.device.worker import Worker
from crayon.engine import (
    BLEND,
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
)
from crayon.errors import (
    AdapterError,
    EngineClosedError,
    EngineError,
    InvalidRequestError,
    PromptTooLongError,
)
from crayon.llama import smoke
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.sampler import Sampler
from crayon.llama.signals import SignalMeter, log_softmax_at
from crayon.llama.text import TextAssembler

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from crayon.completion import Blend
    from crayon.llama.adapter import Adapter
    from crayon.models import ProgressCallback

    BlendResolver = Callable[[Blend], Sequence[tuple[Adapter, float]]]

SLOTS = 4  # conversations whose prefix stays computed; also the most answers written in turn
BRANCHES = 16  # continuations scored together
SCORED_ROWS = 64  # rows with logits in one step: 64 x 49,152 floats are 12 MB


class DeviceEngine:
    """An `Engine` on one llama.cpp context and one compute thread; several answers advance in turn.

    Args:
        path: the GGUF file to run.
        name: what answers call the model.
        n_ctx: most tokens of one conversation, and cells of the KV cache that all share.
        n_batch: most prompt tokens computed in one step: it bounds how late a cancellation or a deadline is noticed.
        threads: compute threads (None: the cores this process may use).
        background: texts whose mean embedding is the centre for `encode`; without any, vectors are not centred.
        cache_dir: where that centre is kept between runs.
        source_sha256: hash of the published file that `path` is, or was prepared from.
        adapters: turns a request's blend into loaded adapters with scales; without it blends are refused.

    Raises:
        ModelFileError: the file cannot be run.
        LibraryError: the wrong llama-cpp-python is installed.
        EngineError: no memory for the context.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        name: str = "",
        n_ctx: int = 4096,
        n_batch: int = 512,
        threads: int | None = None,
        background: Sequence[str] = (),
        cache_dir: Path | None = None,
        source_sha256: str = "",
        adapters: BlendResolver | None = None,
    ) -> None:
        self._worker: Worker | None = None
        self._gate = threading.Lock()  # callers read the model's vocabulary under it, so that close() waits for them
        smoke.check()
        self._model = Model(path)
        self._encoder: Encoder | None = None
        try:
            self.n_ctx = min(n_ctx, self._model.n_ctx_train)
            self._context = Context(
                self._model,
                n_ctx=self.n_ctx,
                n_batch=n_batch,
                n_seq_max=SLOTS + BRANCHES,
                n_outputs_max=SCORED_ROWS,
                threads=threads,
            )
        except Exception:
            self._model.close()
            raise
        self._name = name or Path(path).stem
        self._threads = threads
        self._background = tuple(background)
        self._cache_dir = cache_dir
        self._source_sha256 = source_sha256
        self._adapters = adapters
        self._batch = Batch(self._context.n_batch)
        self._slots = SlotTable(self._context, slots=SLOTS, capacity=self._context.n_ctx)
        self._meter = SignalMeter(self._model.n_vocab)
        self._entry = Turns()  # a large request is not overtaken for ever by small ones
        self._branching = Turns()  # the branch sequences are there once
        self._worker = Worker(abort=self._abort, clear_abort=self._clear_abort)

    @classmethod
    def open(
        cls,
        reference: str,
        *,
        models_dir: Path | None = None,
        download: bool = True,
        prepared: bool = True,
        progress: ProgressCallback | None = None,
        n_ctx: int = 4096,
        threads: int | None = None,
    ) -> Self:
        """Open a model by reference: fetched when it is absent, and in the file prepared for this machine if any.

        Raises:
            ModelError: the model cannot be found, fetched or read.
            EngineError: it cannot be run.
        """
        found = opening.find(
            reference, models_dir=models_dir, download=download, prepared_file=prepared, progress=progress
        )
        return cls(
            found.path,
            name=found.name,
            n_ctx=n_ctx,
            threads=threads,
            background=background_texts(),
            cache_dir=found.cache_dir,
            source_sha256=found.source_sha256,
        )

    # -- the engine contract

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the one model that runs here."""
        capabilities = {GENERATE, SCORE, ENCODE} | ({BLEND} if self._adapters else set())
        quantization = self._model.metadata.get("crayon.prepared.type", "")
        return (ModelInfo(self._name, self.n_ctx, self._source_sha256, quantization, frozenset(capabilities)),)

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer.

        Raises:
            PromptTooLongError: the prompt leaves no room for an answer.
            AdapterError: the blend cannot be applied.
            OverloadedError: too many requests wait.
        """
        self._check_model(request.model)
        with self._gate:
            worker = self._running()
            tokens = self._prompt(request.messages)
            adapters = self._resolve(request.blend)
        stream = Stream(on_cancel=lambda: worker.cancelled(job))
        job = Job(stream, request.deadline)
        job.steps = self._generate(job, stream, request, tokens, adapters)
        worker.submit(job)
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Score continuations of one prompt.

        Raises:
            PromptTooLongError: the prompt, or a continuation after it, does not fit; the field names it.
            AdapterError: the blend cannot be applied.
            OverloadedError: too many requests wait.
        """
        self._check_model(request.model)
        with self._gate:
            worker = self._running()
            tokens = self._prompt(request.messages)
            adapters = self._resolve(request.blend)
            lists = [self._model.tokenize(text) for text in request.continuations]
        for i, part in enumerate(lists):
            if len(tokens) + len(part) > self.n_ctx:
                raise PromptTooLongError(len(tokens) + len(part), self.n_ctx, f"continuations[{i}]")
        future: Future[ScoreResult] = Future()
        self._submit(worker, future, request.deadline, self._score(future, request.blend, tokens, lists, adapters))
        return future

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Embed texts: sink-free, centred unit vectors of the model's middle layer.

        Raises:
            PromptTooLongError: a text does not fit the context; the field names it.
            OverloadedError: too many requests wait.
        """
        self._check_model(request.model)
        with self._gate:
            worker = self._running()
            encoder = self._encoder_ready()
            lists = [encoder.tokenize(text, f"texts[{i}]") for i, text in enumerate(request.texts)]
        future: Future[EncodeResult] = Future()

        def deliver(vectors: NDArray[np.float32]) -> None:
            usage = Usage(prompt_tokens=sum(len(part) for part in lists))
            _deliver(future, EncodeResult(vectors, usage, self._name))

        self._submit(worker, future, request.deadline, encoder.steps(lists, deliver))
        return future

    def close(self) -> None:
        """End what runs and free the model."""
        with self._gate:
            worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.close()
        if self._encoder is not None:
            self._encoder.close()
        self._context.close()
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- on the caller's thread

    def _running(self) -> Worker:
        if self._worker is None:
            raise EngineClosedError("the device engine is closed")
        return self._worker

    def _submit(self, worker: Worker, future: Future[Any], deadline: float | None, steps: Iterator[None]) -> None:
        job = Job(future, deadline, steps)
        future.add_done_callback(lambda done: worker.cancelled(job) if done.cancelled() else None)
        worker.submit(job)

    def _check_model(self, name: str) -> None:
        if name and name != self._name:
            raise InvalidRequestError("model", f"{name!r} is not served here; leave it empty or use {self._name!r}")

    def _prompt(self, messages: Sequence[Any]) -> list[int]:
        tokens = self._model.tokenize_chat(messages)
        if len(tokens) >= self.n_ctx:
            raise PromptTooLongError(len(tokens), self.n_ctx - 1)
        return tokens

    def _resolve(self, blend: Blend | None) -> tuple[tuple[Adapter, float], ...]:
        if blend is None:
            return ()
        if self._adapters is None:
            raise AdapterError(f"no adapter pool is loaded on the device, so pool {blend.pool_id!r} cannot be blended")
        return tuple(self._adapters(blend))

    def _encoder_ready(self) -> Encoder:
        # Made at the first use: its context costs as much memory as the main one's.
        if self._encoder is None:
            self._encoder = Encoder(
                self._model,
                n_ctx=self.n_ctx,
                background=self._background,
                cache_dir=self._cache_dir,
                threads=self._threads,
            )
        return self._encoder

    def _abort(self) -> None:
        self._context.abort()
        if self._encoder is not None:
            self._encoder.abort()

    def _clear_abort(self) -> None:
        self._context.clear_abort()
        if self._encoder is not None:
            self._encoder.clear_abort()

    # -- on the compute thread

    def _admit(self, blend: Blend | None, tokens: list[int], reserve: int) -> Generator[None, None, tuple[Slot, int]]:
        """Wait for a slot; return it and how many of the tokens it already holds."""
        while (found := self._slots.acquire(blend, tokens, reserve)) is None:
            yield
        return found

    def _generate(
        self,
        job: Job,
        stream: Stream,
        request: GenerateRequest,
        tokens: list[int],
        adapters: tuple[tuple[Adapter, float], ...],
    ) -> Iterator[None]:
        limit = min(request.sampling.max_tokens, self.n_ctx - len(tokens))
        slot, cached = yield from self._entry.held(self._admit(request.blend, tokens, len(tokens) + limit))
        try:
            with Sampler(request.sampling, self._meter) as sampler:
                started = time.monotonic()
                stream.push(Started(request.request_id, self._name, request.blend))
                sampler.prime(tokens)
                yield from self._prefill(slot, tokens[cached:], adapters)
                row = self._batch.size - 1
                assembler = TextAssembler(request.sampling.stop)
                written, first, reason = 0, 0.0, FinishReason.LENGTH
                while True:
                    token, signal = sampler.sample(self._context, row)
                    first = first or time.monotonic()
                    if self._model.is_end(token):
                        reason = FinishReason.STOP
                        break
                    written += 1
                    text = assembler.push(self._model.piece(token))
                    job.partial += text
                    stream.push(Delta(text, (signal,)))
                    if assembler.stopped:
                        reason = FinishReason.STOP
                        break
                    if written >= limit:
                        break
                    yield
                    row = self._compute(slot, [token], adapters, last=True)
                rest = assembler.finish()
                if rest:
                    stream.push(Delta(rest))
                ended = time.monotonic()
                stream.push(
                    Finished(
                        reason,
                        Usage(len(tokens), written, cached),
                        Timings(1000 * (started - job.submitted), 1000 * (first - started), 1000 * (ended - first)),
                    )
                )
        finally:
            self._slots.release(slot)

    def _score(
        self,
        future: Future[ScoreResult],
        blend: Blend | None,
        tokens: list[int],
        lists: list[list[int]],
        adapters: tuple[tuple[Adapter, float], ...],
    ) -> Iterator[None]:
        groups = list(self._branch_groups(lists, len(tokens)))
        branched = max((sum(len(lists[i]) - 1 for i in group) for group in groups), default=0)
        slot, cached = yield from self._entry.held(self._admit(blend, tokens, len(tokens) + branched))
        try:
            yield from self._prefill(slot, tokens[cached:], adapters)
            firsts = log_softmax_at(self._context.logits(self._batch.size - 1), [part[0] for part in lists])
            scores = [[float(first)] for first in firsts]
            for group in groups:
                yield from self._branching.held(self._branch(slot, group, lists, scores, adapters))
            usage = Usage(len(tokens) + sum(len(part) for part in lists), 0, cached)
            _deliver(future, ScoreResult(tuple(ContinuationScore(tuple(s)) for s in scores), usage, self._name))
        finally:
            self._slots.release(slot)

    def _branch_groups(self, lists: list[list[int]], prompt: int) -> Iterator[list[int]]:
        """Yield indexes of continuations that are computed together: sequences and cells are limited."""
        group: list[int] = []
        cells = 0
        for i, part in enumerate(lists):
            need = len(part) - 1
            if need == 0:
                continue
            if group and (len(group) == BRANCHES or prompt + cells + need > self.n_ctx):
                yield group
                group, cells = [], 0
            group.append(i)
            cells += need
        if group:
            yield group

    def _branch(
        self,
        slot: Slot,
        group: list[int],
        lists: list[list[int]],
        scores: list[list[float]],
        adapters: tuple[tuple[Adapter, float], ...],
    ) -> Generator[None, None, None]:
        """Score the tokens after the first of each continuation of a group, all under the shared prompt."""
        base = len(slot.tokens)
        branches = {i: SLOTS + b for b, i in enumerate(group)}
        try:
            for branch in branches.values():
                self._context.copy(slot.sequence, branch, 0, base)
            # Every row predicts the token after it; the last token of a continuation predicts nothing we want.
            todo = [(i, at) for i in group for at in range(len(lists[i]) - 1)]
            while todo:
                yield
                size = min(SCORED_ROWS, self._batch.capacity)
                part, todo = todo[:size], todo[size:]
                self._batch.clear()
                for i, at in part:
                    self._batch.add([lists[i][at]], base + at, branches[i], "last")
                self._context.set_adapters(adapters)
                self._context.decode(self._batch)
                for row, (i, at) in enumerate(part):
                    scores[i].append(float(log_softmax_at(self._context.logits(row), [lists[i][at + 1]])[0]))
        finally:
            for branch in branches.values():
                self._context.remove(branch)

    def _prefill(
        self, slot: Slot, tokens: Sequence[int], adapters: tuple[tuple[Adapter, float], ...]
    ) -> Iterator[None]:
        size = self._batch.capacity
        for start in range(0, len(tokens), size):
            if start:
                yield
            part = tokens[start : start + size]
            self._compute(slot, part, adapters, last=start + size >= len(tokens))

    def _compute(
        self, slot: Slot, tokens: Sequence[int], adapters: tuple[tuple[Adapter, float], ...], *, last: bool
    ) -> int:
        """Decode tokens at the end of a slot; return the row of the last."""
        self._batch.clear()
        self._batch.add(tokens, len(slot.tokens), slot.sequence, "last" if last else "none")
        self._context.set_adapters(adapters)
        try:
            self._context.decode(self._batch)
        except EngineError:
            self._slots.forget(slot)
            raise
        slot.tokens.extend(tokens)
        return self._batch.size - 1


def _deliver(future: Future[Any], result: object) -> None:
    try:
        future.set_result(result)
    except InvalidStateError:  # cancelled meanwhile: nobody waits for it
        return
