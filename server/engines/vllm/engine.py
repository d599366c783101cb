"""The engine for GPUs and many machines: vLLM's `AsyncLLM` in process, with blends as LoRA adapters in its batches."""

from __future__ import annotations

import itertools
import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from crayon.constraints import check_constraint, read_prompt
from crayon.context_limit import check_continuations, check_prompt
from crayon.engine import (
    BLEND,
    CONSTRAIN,
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
    InvalidRequestError,
    MissingExtraError,
    ServerRejectedError,
    UnknownModelError,
)
from crayon.server.engines.vllm.adapter_cache import AdapterCache, as_request
from crayon.server.engines.vllm.adapters import Adapters
from crayon.server.engines.vllm.arguments import SLOTS, Shape, chained, engine_config
from crayon.server.engines.vllm.loop import VllmLoop, prepare_environment
from crayon.server.engines.vllm.lora_folder import rank_needed, shapes_of
from crayon.server.engines.vllm.sampling import STRUCTURED, arguments
from crayon.server.engines.vllm.stats import VllmStats
from crayon.server.engines.vllm.tasks import AnswerJob, ScoreJob, VllmTask
from crayon.server.engines.vllm.tokenizer import Tokens
from crayon.server.scheduler import Kind, Request
from crayon.server.scheduler.queue_limits import QueueBounds
from crayon.stream import Promise
from crayon.token_options import check_vocabulary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from concurrent.futures import Future

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.errors import CrayonError
    from crayon.messages import Message
    from crayon.server.engines.vllm.adapters import Lora
    from crayon.server.observability.stats import EngineStats

BLENDS = 16
"""Blends kept, at least; vLLM keeps as many in its memory."""


def capabilities(*, blends: bool, adapters: bool, native: bool) -> frozenset[str]:
    """Return what the engine can do.

    No `ENCODE`: vLLM gives no hidden states of a model that answers. And no `SCORE` where there are adapters but no
    chain of ours: with LoRA enabled, vLLM's own log-probabilities of a prompt end it.

    Args:
        blends: whether there are pools.
        adapters: whether LoRA is enabled, for pools or adapters.
        native: whether vLLM runs without our sampler chain.
    """
    return frozenset(
        {GENERATE, CONSTRAIN} | ({BLEND} if blends else set()) | (set() if adapters and native else {SCORE})
    )


class VllmEngine:
    """An `Engine` on a model's folder, as transformers writes it (`crayon models export` makes one).

    Args:
        folder: configuration, weights, `tokenizer.json` and chat template.
        name: what requests and answers call the model.
        context_tokens: most tokens of one request (None: as many as the model was trained for).
        slots: most requests computed together.
        batch: most tokens in one step (None: vLLM's own choice).
        source_sha256, quantization: told to clients.
        pools: adapter pools that requests may blend; each made for this very model.
        adapters: folders of PEFT's by the name that requests give as their model.
        predict: how much room an answer is given (`LengthRule`), by what was seen; of the scheduler "nano".
        scheduler: "nano" is ours in vLLM's, with llama.cpp's sampling; "stock" is vLLM alone, with its own.
        tensor_parallel, pipeline_parallel, data_parallel: into how many parts the work is divided.
        enable_dbo: vLLM's dual batch overlap; it takes effect where vLLM says so.
        more: further arguments of vLLM's `AsyncEngineArgs`.
        max_queue, max_queue_tokens: most requests, and tokens of their prompts, that wait; see `QueueBounds.of`.

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigError: the folder lacks something, or vLLM refuses an argument.
        AdapterError: an adapter cannot be used; AdapterMismatchError: a pool is for another model.
        EngineError: vLLM does not start, for lack of memory or else.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        name: str = "",
        context_tokens: int | None = None,
        slots: int = SLOTS,
        batch: int | None = None,
        source_sha256: str = "",
        quantization: str = "",
        pools: Sequence[Pool] = (),
        adapters: Mapping[str, Path] | None = None,
        predict: str = "mean",
        scheduler: str = "nano",
        tensor_parallel: int | None = None,
        pipeline_parallel: int | None = None,
        data_parallel: int | None = None,
        enable_dbo: bool | None = None,
        more: Mapping[str, Any] | None = None,
        max_queue: int = 256,
        max_queue_tokens: int | None = None,
    ) -> None:
        _check_installed()
        folder = Path(folder)
        self._name = name or folder.name
        named = dict(adapters or {})
        if self._name in named:
            raise ConfigError("adapters", f"{self._name!r} is the model's own name")
        prepare_environment()
        self._tokens = Tokens(folder)
        for pool in pools:
            pool.check_base(source_sha256, self._name)
        rank = rank_needed(pools, named.values()) if pools or named else 0
        more = dict(more or {})
        if rank:
            more.setdefault("max_cpu_loras", BLENDS)
        shape = Shape(
            folder=folder,
            context_tokens=context_tokens,
            slots=slots,
            batch=batch,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            data_parallel=data_parallel,
            enable_dbo=enable_dbo,
            lora_rank=rank,
            nano=predict if scheduler == "nano" else None,
            more=more,
        )
        config = engine_config(shape, _trained_tokens(folder))
        self._native = not chained(shape)
        self._stats = VllmStats()
        self._adapters = Adapters(
            pools,
            shapes_of(folder, pools) if pools else None,
            named=named,
            model=folder if rank and config.device_config.device_type == "cpu" else None,
            max_rank=rank,
            capacity=max(int(more.get("max_cpu_loras") or BLENDS), 1),
            forget=lambda lora: self._loop.soon(lambda: self._loop.llm.remove_lora(lora.number)),
        )
        try:
            self._loop = VllmLoop(lambda: self._make(config))
        except BaseException:
            self._adapters.close()
            raise
        self._adapter_cache = AdapterCache(self._adapters, self._loop)
        self.context_tokens = int(config.model_config.max_model_len)
        self._bounds = QueueBounds.of(max_queue, max_queue_tokens, self.context_tokens * slots)
        self._lock = threading.Lock()
        self._seconds_per_token = 0.001
        self._ids = map(str, itertools.count())
        can = capabilities(blends=bool(pools), adapters=rank > 0, native=self._native)
        self._infos = (
            ModelInfo(self._name, self.context_tokens, source_sha256, quantization, can),
            *(ModelInfo(name, self.context_tokens, "", "", can - {BLEND}) for name in named),
        )
        try:
            self._loop.call(self._warm_up())
            for lora in self._adapters.named.values():
                self._loop.call(self._adapter_cache.named(lora))
        except BaseException:
            self.close()
            raise

    # -- the engine contract

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the model, and then the adapters that may be asked for by name."""
        return self._infos

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The adapter pools that requests may blend."""
        return self._adapters.pools

    def generate(self, request: GenerateRequest) -> Stream:
        """Start an answer.

        Raises:
            UnknownModelError: another model is asked for.
            AdapterError: the blend is of no pool here, or does not fit it.
            PromptTooLongError: the prompt leaves no room for an answer.
            OverloadedError: too many requests wait.
            EngineClosedError: the engine is closed.
            EngineError: vLLM has broken down.
            InvalidRequestError: the constraint cannot be kept, or the model has no such token as is biased.
        """
        model, hold = self._resolve(request.model, request.blend)
        check_vocabulary(request.logit_bias, self._tokens.count)
        if request.constraint is not None:
            check_constraint(request.constraint)  # before vLLM does, whose words are others
        speech = self._tokens.dialogue.speech(request)
        ids, told = read_prompt(speech.messages, request.constraint, partial(self._prompt, tools=speech.tools))
        params = arguments(
            request.sampling,
            room=self.context_tokens - len(ids),
            ends=self._tokens.ends,
            signals=request.signals,
            native=self._native,
            constraint=speech.constraint,
            bias=request.logit_bias,
            top_logprobs=request.top_logprobs,
        )
        if self._tokens.dialogue.marks:
            params["skip_special_tokens"] = False  # they tell where thoughts and calls begin
        entry = self._entry(Kind.GENERATE, len(ids), request.client, most=params["max_tokens"])
        stream = speech.stream(lambda: self._loop.cancel(job))
        job = AnswerJob(
            outputs=self._outputs,
            hold=hold,
            give_back=self._adapters.give_back,
            leave=lambda: self._leave(entry),
            deadline=request.deadline,
            wanted=request,
            model=model,
            ids=ids,
            shown=told,
            params=params,
            ends=frozenset(self._tokens.ends),
            piece=self._tokens.piece,
            stream=stream,
        )
        self._submit(job, entry)
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Score continuations of one prompt.

        Raises:
            UnknownModelError, AdapterError, OverloadedError, EngineClosedError, EngineError: as `generate`.
            PromptTooLongError: the prompt and a continuation do not fit.
        """
        model, hold = self._resolve(request.model, request.blend)
        if SCORE not in self._infos[0].capabilities:
            raise ServerRejectedError("with adapters and vLLM's own sampling nothing can be scored")
        ids = self._prompt(request.messages)
        continuations = [self._tokens.text(text) for text in request.continuations]
        most = self.context_tokens - self._native  # it writes a token after everything
        check_continuations(len(ids), continuations, most)
        entry = self._entry(Kind.SCORE, len(ids), request.client, branches=tuple(len(part) for part in continuations))
        promise = Promise[ScoreResult](on_cancel=lambda: self._loop.cancel(job))
        job = ScoreJob(
            outputs=self._outputs,
            hold=hold,
            give_back=self._adapters.give_back,
            leave=lambda: self._leave(entry),
            deadline=request.deadline,
            wanted=request,
            model=model,
            prompt=ids,
            continuations=continuations,
            native=self._native,
            promise=promise,
        )
        self._submit(job, entry)
        return promise.future

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Refuse: it is not among the capabilities.

        Raises:
            EngineClosedError, UnknownModelError: as `generate`.
            ServerRejectedError: always, else.
        """
        self._resolve(request.model, None)
        raise ServerRejectedError("vLLM gives no vectors of a model that answers; encode on the device")

    def on_failure(self, tell: Callable[[CrayonError], None]) -> None:
        """Call `tell` once, from any thread, if vLLM breaks down; at once if it has. It then answers nothing."""
        self._loop.on_failure(tell)

    def stats(self) -> EngineStats:
        """Return the numbers as of now, from any thread."""
        return self._stats.read(blends=self._adapters.loaded if self._adapters.pools else None)

    def close(self) -> None:
        """End what runs, and vLLM's processes. Safe to call twice."""
        self._loop.close()
        self._adapter_cache.close()
        self._adapters.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- before a request is vLLM's

    def _make(self, config: Any) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_vllm_config(config, stat_loggers=[self._stats.factory()], disable_log_stats=True)

    def _resolve(self, model: str, blend: Blend | None) -> tuple[str, Callable[[], Awaitable[Lora | None]]]:
        """Return the model's name, and what gets the adapter that it is computed with."""
        self._loop.check()
        if model in self._adapters.named:
            if blend is not None:
                raise InvalidRequestError("blend", f"{model!r} is an adapter already; ask for {self._name!r} to blend")
            lora = self._adapters.named[model]
            return model, lambda: self._adapter_cache.named(lora)
        if model not in {"", self._name}:
            known = ", ".join(info.name for info in self._infos)
            raise UnknownModelError(f"model {model!r} is not served here; there is: {known}")
        if blend is None:
            return self._name, self._adapter_cache.base
        if not self._adapters.pools:
            raise AdapterError(f"no adapter pool is loaded on the server, so {blend.pool_id!r} cannot be blended")
        normal = self._adapters.normal(blend)
        return self._name, self._adapter_cache.base if normal is None else lambda: self._adapter_cache.blend(normal)

    def _prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        ids = self._tokens.chat(messages, tools)
        check_prompt(ids, self.context_tokens)
        return ids

    def _entry(self, kind: Kind, prompt: int, client: str, *, most: int = 0, branches: tuple[int, ...] = ()) -> Request:
        return Request(id=next(self._ids), kind=kind, prompt=prompt, max_tokens=most, branches=branches, client=client)

    def _submit(self, job: VllmTask, entry: Request) -> None:
        entry.arrival = job.submitted
        with self._lock:
            self._bounds.enter(entry, job.submitted, self._seconds_per_token)
        try:
            self._loop.submit(job)
        except BaseException:
            job.close()
            raise

    def _leave(self, entry: Request) -> None:
        now = time.monotonic()
        with self._lock:
            self._bounds.leave(entry, now)
            each = (now - entry.arrival) / max(entry.charge, 1)
            self._seconds_per_token += 0.1 * (each - self._seconds_per_token)

    # -- on vLLM's loop

    def _outputs(self, ids: Sequence[int], params: dict[str, Any], lora: Lora | None) -> Any:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        if STRUCTURED in params:  # anew each time: vLLM writes into it
            params = {**params, STRUCTURED: StructuredOutputsParams(**params[STRUCTURED])}
        return self._loop.llm.generate(
            tokens_input(list(ids)),
            SamplingParams(**params, output_kind=RequestOutputKind.DELTA),
            next(self._ids),
            lora_request=None if lora is None else as_request(lora),
        )

    async def _warm_up(self) -> None:
        """Have a token written: vLLM compiles at the first request what else the first caller would wait for."""
        async for _ in self._outputs(
            [self._tokens.ends[0] if self._tokens.ends else 0], {"max_tokens": 1, "logprobs": 1}, None
        ):
            pass


def _trained_tokens(folder: Path) -> int | None:
    try:
        found = json.loads((folder / "config.json").read_text("utf-8-sig")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError("model", f"{folder}/config.json cannot be read ({type(error).__name__})") from None
    return found if isinstance(found, int) else None


def _check_installed() -> None:
    try:
        import vllm.version  # noqa: F401 - to say what is missing before anything is begun; any folder may be a `vllm`
    except ModuleNotFoundError as error:
        if error.name not in {"vllm", "vllm.version"}:
            raise
        raise MissingExtraError("vllm", "the engine vllm") from None
