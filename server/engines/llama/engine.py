"""The server's default engine: requests of many clients decoded together in one llama.cpp context."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from crayon.blending import CAPACITY, Lease, PoolBlends, check_bases
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
from crayon.errors import (
    AdapterError,
    ConfigError,
    EngineClosedError,
    PromptTooLongError,
    UnknownModelError,
)
from crayon.families import Dialogue
from crayon.llama import smoke
from crayon.llama.model import Model
from crayon.llama.signals import SignalMeter
from crayon.llama.trial import ensure_opens
from crayon.llama.vocabulary import ModelVocabulary
from crayon.server.engines.llama.encoder import LlamaEncoder
from crayon.server.engines.llama.held import OpenEngine
from crayon.server.engines.llama.loop import LlamaLoop
from crayon.server.engines.llama.runners import open_runners
from crayon.server.engines.llama.tasks import EncodeTask, GenerateTask, ScoreTask
from crayon.server.scheduler import Kind, Lengths, Request, StepLimits, TokenIndex
from crayon.server.scheduler.queue_limits import QueueBounds
from crayon.stream import Promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.errors import CrayonError
    from crayon.messages import Message
    from crayon.server.cost.step_cost import StepCost
    from crayon.server.engines.llama.counters import Counters
    from crayon.server.engines.llama.tasks import Task
    from crayon.server.observability.stats import EngineStats

OUTPUTS = 64  # rows of logits in one step; each is a vocabulary of floats
SHORTEST_PREFIX = 16  # tokens; fewer are not worth copying
ENCODE_TOKENS = 2048  # cells of the encoder's cache, so also its longest text
IDLE_PREFIXES = 2  # more make every step slower: attention looks at all cells in use
STEP_SECONDS = 0.25  # a prompt may delay the answers being written by about this much
LATE_SHARE = 0.04  # of the steps may be longer: the 95th percentile of the pauses stays within the bound
FIRST_SECONDS = 1.5  # a prompt is read by then, if need be in steps that are longer


class LlamaCppEngine:
    """An `Engine` on one GGUF file: one context, one thread that computes, any number of callers.

    Args:
        model_path: the GGUF file.
        name: what requests and answers call the model.
        n_ctx: cells of the KV cache, of all requests together.
        context_tokens: most cells that one request may hold (None: all it could, as far as the model was trained).
        n_seq_max: most requests computed together.
        threads: compute threads (None: the cores this process may use).
        n_batch: most tokens in one step.
        step_seconds: how long a step may take while an answer is being written; None does not care.
        late_share: share of the steps that may take longer, for prompts to be read whole.
        first_seconds: steps may be longer, whatever `late_share`, where a prompt would else not be read within this
            time of its arrival.
        max_queue, max_queue_tokens: most requests, and tokens of their prompts, that wait; see `QueueBounds.of`.
        background: texts whose mean embedding is the centre for `encode`.
        source_sha256, quantization: told to clients.
        pools: adapter pools that requests may blend; each made for this very model.
        spill: whether sequences may be taken out of a full cache and brought back; without it every request's worst
            case is reserved.
        predict: how much room an answer is given (`LengthRule`), by what was seen; with `spill` only.
        idle_prefixes: most finished requests whose cache stays for others to begin with; 0 shares nothing.
        quantum: tokens that a blend computes before the next one's turn comes.
        plan_ahead: whether the next step is planned while one runs.
        overlap: "dual" reads prompts and writes answers at the same time, each on cores of its own, in two contexts;
            "none" computes one after the other on all cores.
        prefill_threads: with "dual", how many cores read prompts (None: half of them).
        kv_unified: whether requests share the cells of the cache: any of them may then hold all, and begin with
            another's at no cost, but attention looks at the cells of all, which makes steps with many requests twice
            as long. If not, each has `n_ctx / n_seq_max` cells of its own.
        nano_batches: engine calls that a step of one blend is computed in, at most: answers first, then prompts; 1 is
            one for all. With "dual" the two are calls of their own in any case.
        cost: what steps cost on this machine, as a search has measured it; None: it is learnt from those that run.

    Raises:
        AdapterMismatchError: a pool was made for another base model.
        ModelFileError: the file cannot be run, or can answer nobody: it has no chat template that is usable.
        LibraryError: the wrong llama-cpp-python is installed.
        EngineError: no memory for the context.
        ConfigError: the limits contradict each other.
    """

    def __init__(
        self,
        model_path: Path | str,
        *,
        name: str = "",
        n_ctx: int = 32768,
        context_tokens: int | None = None,
        n_seq_max: int = 16,
        threads: int | None = None,
        n_batch: int = 512,
        step_seconds: float | None = STEP_SECONDS,
        late_share: float = LATE_SHARE,
        first_seconds: float | None = FIRST_SECONDS,
        max_queue: int = 256,
        max_queue_tokens: int | None = None,
        background: Sequence[str] = (),
        source_sha256: str = "",
        quantization: str = "",
        pools: Sequence[Pool] = (),
        spill: bool = True,
        predict: str = "mean",
        idle_prefixes: int = IDLE_PREFIXES,
        quantum: int = 0,
        plan_ahead: bool = True,
        overlap: Literal["none", "dual"] = "none",
        prefill_threads: int | None = None,
        kv_unified: bool = False,
        nano_batches: int = 1,
        cost: StepCost | None = None,
    ) -> None:
        for key, value in (("n_ctx", n_ctx), ("n_seq_max", n_seq_max), ("context_tokens", context_tokens)):
            if value is not None and value < 1:
                raise ConfigError(key, f"must be at least 1, not {value}")
        bounds = QueueBounds.of(max_queue, max_queue_tokens, n_ctx)
        smoke.check()
        if not source_sha256:  # nobody vouches for it
            ensure_opens(Path(model_path))
        self._name = name or Path(model_path).stem
        self._n_batch = min(n_batch, n_ctx)
        self._background = tuple(background)
        self._lock = threading.Condition()
        self._callers = 0
        self._ids = map(str, itertools.count())  # not the callers' own: two may use the same
        self._closed = False
        self._process = os.getpid()
        self._model = Model(model_path)
        try:
            self._model.check_chat()
            self._model.log_limits()
            source_sha256 = check_bases(pools, self._model, source_sha256, self._name)
            each = n_ctx if kv_unified else n_ctx // n_seq_max
            self.context_tokens = min(each, self._model.n_ctx_train, each if context_tokens is None else context_tokens)
            self._encode_tokens = min(ENCODE_TOKENS, self.context_tokens)
            # Before the context: llama.cpp ends the process over some limits that contradict each other.
            limits = self._limits = StepLimits(
                max_tokens=self._n_batch,
                max_seqs=n_seq_max,
                kv_capacity=n_ctx,
                encode_capacity=self._encode_tokens,
                max_outputs=min(max(n_seq_max, OUTPUTS), self._n_batch),
                step_seconds=step_seconds,
                late_share=late_share,
                first_seconds=first_seconds,
                parts=nano_batches,
                quantum=quantum,
                spill=spill,
                max_idle_prefixes=min(idle_prefixes, max(n_seq_max - 1, 0)),
                cut_limit=self._model.cut_limit,
            )
            runners = open_runners(self._model, limits, threads, overlap, prefill_threads, kv_unified=kv_unified)
        except Exception:
            self._model.close()
            raise
        self._held = OpenEngine(self._model, runners)
        self._meter = SignalMeter(self._model.n_vocab)
        self._constraining = Constraining(ModelVocabulary(self._model))
        if pools:
            contexts = tuple(runner.context for runner in runners.runners)
            self._held.blends = PoolBlends(self._model, pools, contexts=contexts, capacity=max(CAPACITY, n_seq_max))
        capabilities = frozenset({GENERATE, SCORE, ENCODE, CONSTRAIN} | ({BLEND} if pools else set()))
        self._info = ModelInfo(self._name, self.context_tokens, source_sha256, quantization, capabilities)
        self._loop = LlamaLoop(
            runners,
            limits,
            self._held.encoder_if_any,
            bounds,
            lengths=Lengths(predict) if spill else None,
            index=TokenIndex(SHORTEST_PREFIX) if limits.max_idle_prefixes else None,
            ahead=plan_ahead,
            cost=cost,
            shared_cells=kv_unified,
        )
        # Who drops an engine without closing it does not keep its model: the thread ends and frees it.
        self._dropped = weakref.finalize(self, self._loop.release, self._held.free)
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
            InvalidRequestError: the constraint cannot be kept.
        """
        with self._calling(request.model):
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

    def _make_encoder(self) -> LlamaEncoder:
        # Made at the first use: its context takes memory that most servers never need.
        with self._lock:
            if self._held.encoder is None:
                threads = self._held.runners.runners[-1].context.threads
                sizes = {"n_ctx": self._encode_tokens, "n_batch": min(self._n_batch, self._encode_tokens)}
                sizes |= {"n_seq_max": self._limits.max_seqs}
                self._held.encoder = LlamaEncoder(self._model, background=self._background, threads=threads, **sizes)
            return self._held.encoder
