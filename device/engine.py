"""The on-device runtime: chat, scores and embeddings from one small model on llama.cpp."""

from __future__ import annotations

import functools
import hashlib
import threading
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from crayon.blending import Lease, PoolBlends, check_bases
from crayon.completion import Usage
from crayon.constraints import read_prompt
from crayon.context_limit import check_continuations, check_prompt
from crayon.data.texts import background_texts, everyday_groups
from crayon.device import opening
from crayon.device.auto import Wish, pick
from crayon.device.compute import Compute
from crayon.device.encoder import Encoder
from crayon.device.held import OpenModel
from crayon.device.job import Job
from crayon.device.prefixes import Prefixes
from crayon.device.worker import Worker
from crayon.engine import (
    BLEND,
    CONSTRAIN,
    ENCODE,
    GENERATE,
    POOLING,
    SCORE,
    EncodeRequest,
    EncodeResult,
    GenerateRequest,
    ModelInfo,
    RawStates,
    ScoreRequest,
    ScoreResult,
    Stream,
)
from crayon.errors import (
    AdapterError,
    ConfigError,
    EngineClosedError,
    EngineError,
    UnknownModelError,
)
from crayon.families import Dialogue
from crayon.llama import smoke
from crayon.llama.model import Model
from crayon.llama.trial import ensure_opens
from crayon.models import is_auto
from crayon.models.prepared import origin
from crayon.stream import Promise
from crayon.token_options import check_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from crayon.adapters.pool import Pool
    from crayon.blending import BlendResolver
    from crayon.completion import Blend
    from crayon.device.opening import PoolReferences
    from crayon.device.prefixes import SharedPrefix
    from crayon.messages import Message
    from crayon.models import ProgressCallback


class DeviceEngine:
    """An `Engine` on one llama.cpp context and one compute thread; several answers advance in turn.

    Args:
        path: the GGUF file to run.
        name: what answers call the model.
        n_ctx: most tokens of one conversation, and cells of the KV cache that all share.
        n_batch: most prompt tokens computed in one step: it bounds how late a cancellation or a deadline is noticed.
        threads: compute threads (None: the cores this process may use).
        background: texts whose mean embedding is the centre for `encode`; without any, vectors are not centred.
        everyday: groups of everyday texts, those of one intent each, by which texts can be compared without a pool;
            if there are none, the background as one group.
        cache_dir: where the states of background and everyday texts are kept between runs.
        source_sha256: hash of the published file that `path` is, or was prepared from.
        file_sha256: hash of the file at `path`, where it is known.
        pools: adapter pools that requests may blend; each made for this very model.
        adapters: in place of pools, turns a request's blend into loaded adapters with scales.
        repeat_penalty: of plain answers (no blend, constraint or tools) whose request says nothing of it; None: none.

    Raises:
        AdapterMismatchError: a pool was made for another base model.
        ConfigError: both pools and adapters are given.
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
        everyday: Sequence[Sequence[str]] = (),
        cache_dir: Path | None = None,
        source_sha256: str = "",
        file_sha256: str = "",
        pools: Sequence[Pool] = (),
        adapters: BlendResolver | None = None,
        repeat_penalty: float | None = None,
    ) -> None:
        if pools and adapters is not None:
            raise ConfigError("adapters", "takes the place of pools; pass one of them")
        self._worker: Worker | None = None
        self._gate = threading.Lock()  # callers read the model's vocabulary under it, so that close() waits for them
        smoke.check()
        if not file_sha256:  # nobody vouches for it
            ensure_opens(Path(path))
        self._model = Model(path)
        self._name = name or Path(path).stem
        try:
            self._model.log_limits()
            self.n_ctx = min(n_ctx, self._model.n_ctx_train)
            self._compute = Compute(self._model, name=self._name, n_ctx=self.n_ctx, n_batch=n_batch, threads=threads)
        except Exception:
            self._model.close()
            raise
        self._held = OpenModel(self._model, self._compute)
        self._threads = threads
        self._repeat_penalty = repeat_penalty
        self._background, self._everyday = tuple(background), everyday
        self._cache_dir = cache_dir
        # A prepared file says what it was made from, however it was found.
        self._source_sha256, self._quantization = origin(self._model.metadata, source_sha256)
        self.file_sha256 = file_sha256
        self._prefixes = Prefixes(
            self._model,
            state=self._compute.context.state_kind,
            file_sha256=file_sha256,
            template_sha256=self.template_sha256,
        )
        self._adapters = adapters
        self._pooling = threading.Lock()
        self._shipped: Path | None = None
        try:
            self._use(pools)
        except Exception:
            self._held.free()
            raise
        self._worker = Worker(abort=self._held.abort, clear_abort=self._held.clear_abort, free=self._held.free)
        # Who drops an engine without closing it does not keep its model: the thread ends and frees it.
        weakref.finalize(self, self._worker.release).atexit = False

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
        pools: PoolReferences = opening.AUTO,
    ) -> Self:
        """Open a model by reference: fetched when it is absent, and in the file prepared for this machine if any.

        "auto" is the model that suits this machine, see `crayon.device.auto`.

        `pools` are those to blend: by default the one that comes with Crayon for this model, if there is one.

        Raises:
            ModelError: the model cannot be found, fetched or read.
            AdapterError: a pool that is named cannot be read, or was made for another model.
            EngineError: it cannot be run.
        """
        if is_auto(reference):
            wish = Wish(models_dir=models_dir, download=download, prepared=prepared, n_ctx=n_ctx, threads=threads)
            reference = pick(wish).model
        found = opening.find(
            reference, models_dir=models_dir, download=download, prepared_file=prepared, progress=progress
        )
        engine = cls(
            found.path,
            name=found.name,
            n_ctx=n_ctx,
            threads=threads,
            background=background_texts(),
            everyday=everyday_groups(),
            cache_dir=found.cache_dir,
            source_sha256=found.source_sha256,
            file_sha256=found.file_sha256,
            repeat_penalty=found.repeat_penalty,
        )
        try:
            if pools == opening.AUTO:
                engine._shipped = opening.shipped(engine._source_sha256)
            else:
                engine._use(opening.pools(pools, engine._source_sha256))
        except Exception:
            engine.close()
            raise
        return engine

    # -- the engine contract

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the one model that runs here."""
        blends = bool(self._adapters or self._held.blends or self._shipped)
        capabilities = {GENERATE, SCORE, ENCODE, CONSTRAIN} | ({BLEND} if blends else set())
        return (ModelInfo(self._name, self.n_ctx, self._source_sha256, self._quantization, frozenset(capabilities)),)

    @property
    def template_sha256(self) -> str:
        """Hash of the model's chat template: what a score means depends on it."""
        source = self._model.metadata.get("tokenizer.chat_template", "")
        return hashlib.sha256(str(source).encode()).hexdigest()

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The adapter pools that requests may blend. The shipped one is read at its first use, here or in a blend."""
        blends = self._ready()
        return blends.pools if blends is not None else ()

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return how long a prompt is, as `generate` would read it.

        Raises:
            EngineClosedError: after `close`.
        """
        with self._used():
            self._running()
            return len(self._model.tokenize_chat(messages))

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer. A blend of weights that are all 0 is the plain base, and shares its prefix cache.

        Raises:
            PromptTooLongError: the prompt leaves no room for an answer.
            AdapterError: the blend cannot be applied.
            OverloadedError: too many requests wait.
            InvalidRequestError: the model has no such token as is biased; or the constraint cannot be kept, which fails
                the stream.
        """
        self._check_model(request.model)
        check_vocabulary(request.logit_bias, self._model.n_vocab)
        asked, request = request, self._penalised(request)
        with self._used():
            worker = self._running()
            speech = self._dialogue.speech(request)
            read = partial(self._prompt, tools=speech.tools)
            tokens, told = read_prompt(speech.messages, request.constraint, read)
            blend, hold = self._resolve(request.blend)
            prefix = self._shared(request, tokens, blend)
        stream = speech.stream(lambda: self._cancelled(worker, job))
        job = Job(stream, request.deadline)
        job.steps = self._compute.generate(
            job, stream, request, tokens, blend, hold, prefix, told, speech.constraint,
            checked=speech.checked, marks=self._marks,
            primed=request is asked,  # the model's own penalty keeps no answer from saying what its question says
        )  # fmt: skip
        worker.submit(job)
        return stream

    def _penalised(self, request: GenerateRequest) -> GenerateRequest:
        """Return a request with the penalty that suits the model, where it asks for a plain answer and says nothing."""
        plain = request.blend is None and request.constraint is None and not request.tools
        if request.sampling.repeat_penalty is not None or self._repeat_penalty is None or not plain:
            return request
        return replace(request, sampling=replace(request.sampling, repeat_penalty=self._repeat_penalty))

    def score(self, request: ScoreRequest, *, ended: bool = False) -> Future[ScoreResult]:
        """Score continuations of one prompt.

        Args:
            request: the prompt and its continuations.
            ended: score the token that ends an answer as well, as each continuation's last: else the start of a longer
                text is never less likely than the whole.

        Raises:
            PromptTooLongError: the prompt, or a continuation after it, does not fit; the field names it.
            AdapterError: the blend cannot be applied.
            OverloadedError: too many requests wait.
        """
        self._check_model(request.model)
        with self._used():
            worker = self._running()
            tokens = self._prompt(request.messages)
            blend, hold = self._resolve(request.blend)
            prefix = self._shared(request, tokens, blend)
            lists = [self._model.tokenize_answer(text, tokens) for text in request.continuations]
            end = self._model.turn_end
        if ended and end < 0:
            raise EngineError("the model has no token that ends an answer, so none can be scored to its end")
        check_continuations(len(tokens) + ended, lists, self.n_ctx)
        promise = Promise[ScoreResult](on_cancel=lambda: self._cancelled(worker, job))
        job = Job(promise, request.deadline)
        if ended:
            lists = [[*part, end] for part in lists]
        job.steps = self._compute.score(promise.succeed, tokens, lists, blend, hold, prefix)
        worker.submit(job)
        return promise.future

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Embed texts: centred unit vectors of one of the model's layers, under the middle.

        Raises:
            PromptTooLongError: a text does not fit the context; the field names it.
            OverloadedError: too many requests wait.
        """
        worker, encoder, lists = self._tokenized(request)
        promise = Promise[EncodeResult](on_cancel=lambda: self._cancelled(worker, job))
        job = Job(promise, request.deadline)
        usage = Usage(prompt_tokens=sum(len(part) for part in lists))
        job.steps = encoder.steps(lists, lambda vectors: promise.succeed(EncodeResult(vectors, usage, self._name)))
        worker.submit(job)
        return promise.future

    def encode_raw(self, request: EncodeRequest) -> Future[RawStates]:
        """Return the pooled states that `encode` centres, and the background's, for who has a centre of their own.

        Raises:
            PromptTooLongError, OverloadedError: as `encode`.
        """
        worker, encoder, lists = self._tokenized(request)
        promise = Promise[RawStates](on_cancel=lambda: self._cancelled(worker, job))
        job = Job(promise, request.deadline)
        job.steps = encoder.raw_steps(lists, promise.succeed, everyday=request.everyday)
        worker.submit(job)
        return promise.future

    def close(self) -> None:
        """End what runs and free the model."""
        worker = self._worker
        if worker is not None and worker.forked:  # who held the gate when the process forked is not in this one
            self._worker = None
            return
        with self._gate:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- on the caller's thread

    @property
    def _blends(self) -> PoolBlends | None:
        return self._held.blends

    def _used(self) -> threading.Lock:
        """Return the gate, which a forked process must not wait for: who held it is not there.

        Raises:
            EngineClosedError: the model was loaded before this process forked.
        """
        worker = self._worker
        if worker is not None:
            worker.check_fork()
        return self._gate

    def _cancelled(self, worker: Worker, job: Job) -> None:
        # A method: an answer that still runs keeps its engine.
        worker.cancelled(job)

    def _running(self) -> Worker:
        if self._worker is None:
            raise EngineClosedError("the device engine is closed")
        return self._worker

    def _check_model(self, name: str) -> None:
        if name and name != self._name:
            raise UnknownModelError(f"model {name!r} is not served here; there is: {self._name!r}")

    def _tokenized(self, request: EncodeRequest) -> tuple[Worker, Encoder, list[list[int]]]:
        self._check_model(request.model)
        with self._used():
            worker = self._running()
            encoder = self._encoder_ready()
            return worker, encoder, [encoder.tokenize(text, f"texts[{i}]") for i, text in enumerate(request.texts)]

    @functools.cached_property
    def _dialogue(self) -> Dialogue:
        return Dialogue(self._model.template, self._model.unseen)

    @functools.cached_property
    def _marks(self) -> dict[int, bytes]:
        return {self._model.unseen[mark]: mark.encode() for mark in self._dialogue.marks}

    def _prompt(self, messages: Sequence[Any], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        tokens = self._model.tokenize_chat(messages, tools)
        check_prompt(tokens, self.n_ctx)
        return tokens

    def _resolve(self, blend: Blend | None) -> tuple[Blend | None, Callable[[], Lease]]:
        """Return what keys the cache (None: the base), and what loads its adapters once the job's turn has come."""
        if blend is None:
            return None, Lease
        blends = self._ready()
        if blends is not None:
            normal = blends.normal(blend)
            return (None, Lease) if normal is None else (normal, lambda: blends(normal))
        if self._adapters is None:
            raise AdapterError(f"no adapter pool is loaded on the device, so pool {blend.pool_id!r} cannot be blended")
        adapters = Lease.of(self._adapters(blend))
        return blend, lambda: adapters

    def _shared(
        self, request: GenerateRequest | ScoreRequest, tokens: list[int], blend: Blend | None
    ) -> SharedPrefix | None:
        name: str | None = ""
        if blend is not None:
            name = self._blends.identity(blend) if self._blends is not None else None
        return self._prefixes.find(request.prefix, request.messages, tokens, name)

    def _ready(self) -> PoolBlends | None:
        # Reading a pool takes a tenth of a second and its size in memory: most answers are of the base.
        with self._pooling:
            folder, self._shipped = self._shipped, None
            if folder is not None:
                self._use(opening.open_shipped(folder))
            return self._blends

    def _use(self, pools: Sequence[Pool]) -> None:
        if pools:
            self._source_sha256 = check_bases(pools, self._model, self._source_sha256, self._name)
            self._held.blends = PoolBlends(self._model, pools, contexts=(self._compute.context,))

    def _encoder_ready(self) -> Encoder:
        # Made at the first use: its context costs as much memory as the main one's.
        if self._held.encoder is None:
            # A pool's keys say which layer texts are compared by.
            encoders = [pool.manifest.encoder for pool in self.pools]
            layers = (found.layer for found in encoders if found is not None and found.kind == POOLING)
            self._held.encoder = Encoder(
                self._model,
                n_ctx=self.n_ctx,
                background=self._background,
                everyday=self._everyday,
                source_sha256=self._source_sha256,
                cache_dir=self._cache_dir,
                threads=self._threads,
                layer=next(layers, None),
            )
        return self._held.encoder
