"""The server's default engine: requests of many clients decoded together in one llama.cpp context."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crayon.blending import CAPACITY, PoolBlends, check_bases
from crayon.errors import ConfigError
from crayon.llama import smoke
from crayon.llama.model import Model
from crayon.llama.trial import ensure_opens
from crayon.server.engines.llama.encoder import LlamaEncoder
from crayon.server.engines.llama.held import OpenEngine
from crayon.server.engines.llama.loop import LlamaLoop
from crayon.server.engines.llama.runners import open_runners
from crayon.server.engines.llama.scheduled import ScheduledEngine
from crayon.server.scheduler import Lengths, StepLimits, TokenIndex
from crayon.server.scheduler.queue_limits import QueueBounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.adapters.pool import Pool
    from crayon.server.cost.step_cost import StepCost

OUTPUTS = 64  # rows of logits in one step; each is a vocabulary of floats
SHORTEST_PREFIX = 16  # tokens; fewer are not worth copying
ENCODE_TOKENS = 2048  # cells of the encoder's cache, so also its longest text
IDLE_PREFIXES = 2  # more make every step slower: attention looks at all cells in use
STEP_SECONDS = 0.25  # a prompt may delay the answers being written by about this much
LATE_SHARE = 0.04  # of the steps may be longer: the 95th percentile of the pauses stays within the bound
FIRST_SECONDS = 1.5  # a prompt is read by then, if need be in steps that are longer


class LlamaCppEngine(ScheduledEngine):
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
        name = name or Path(model_path).stem
        self._n_batch = min(n_batch, n_ctx)
        self._background = tuple(background)
        model = Model(model_path)
        try:
            model.check_chat()
            model.log_limits()
            source_sha256 = check_bases(pools, model, source_sha256, name)
            each = n_ctx if kv_unified else n_ctx // n_seq_max
            context_tokens = min(each, model.n_ctx_train, each if context_tokens is None else context_tokens)
            encode_tokens = min(ENCODE_TOKENS, context_tokens)
            # Before the context: llama.cpp ends the process over some limits that contradict each other.
            limits = self._limits = StepLimits(
                max_tokens=self._n_batch,
                max_seqs=n_seq_max,
                kv_capacity=n_ctx,
                encode_capacity=encode_tokens,
                max_outputs=min(max(n_seq_max, OUTPUTS), self._n_batch),
                step_seconds=step_seconds,
                late_share=late_share,
                first_seconds=first_seconds,
                parts=nano_batches,
                quantum=quantum,
                spill=spill,
                max_idle_prefixes=min(idle_prefixes, max(n_seq_max - 1, 0)),
                cut_limit=model.cut_limit,
            )
            runners = open_runners(model, limits, threads, overlap, prefill_threads, kv_unified=kv_unified)
        except Exception:
            model.close()
            raise
        held = OpenEngine(model, runners)
        if pools:
            contexts = tuple(runner.context for runner in runners.runners)
            held.blends = PoolBlends(model, pools, contexts=contexts, capacity=max(CAPACITY, n_seq_max))
        loop = LlamaLoop(
            runners,
            limits,
            held.encoder_if_any,
            bounds,
            lengths=Lengths(predict) if spill else None,
            index=TokenIndex(SHORTEST_PREFIX) if limits.max_idle_prefixes else None,
            ahead=plan_ahead,
            cost=cost,
            shared_cells=kv_unified,
        )
        super().__init__(
            name,
            held,
            loop,
            context_tokens=context_tokens,
            encode_tokens=encode_tokens,
            source_sha256=source_sha256,
            quantization=quantization,
        )

    def _open_encoder(self) -> LlamaEncoder:
        return LlamaEncoder(
            self._model,
            n_ctx=self._encode_tokens,
            n_batch=min(self._n_batch, self._encode_tokens),
            n_seq_max=self._limits.max_seqs,
            background=self._background,
            threads=self._held.runners.runners[-1].context.threads,
        )
