"""Where nano-batches are computed: one runner on all cores, or two at the same time on cores of their own.

A runner is a context with its KV cache, the batch that it reads and the one thread that computes on it. With two
runners prompts are read on one and answers are written on the other (NanoFlow's overlap of what is bound by compute
with what is bound by memory, on a CPU's terms); both use the same weights. What a prompt left in the cache of the first
is handed to the second once it is read.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from crayon.errors import ConfigError, EngineError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.machine import usable_core_ids
from crayon.server.engines.llama.batch import adapters_of
from crayon.server.engines.llama.sequences import Sequences
from crayon.server.scheduler import Kind, Resource
from crayon.server.scheduler.nano_batches import in_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from crayon.llama.model import Model
    from crayon.server.engines.llama.batch import EngineCall
    from crayon.server.engines.llama.parts import StepRunner
    from crayon.server.scheduler import KvOp, NanoBatch, Request, StepLimits, StepPlan

GRAPH = 512  # most rows of one graph: what larger ones gain is lost to the caches of the CPU

T = TypeVar("T")
R = TypeVar("R", bound="StepRunner")


class Runner:
    """A context and the thread that computes on it.

    Args:
        context: computed on by this runner only; closed by who made it.
        cores: where a thread of the runner's own, and those that it starts, may run; None: it has none, and computes on
            the thread that calls `run`, which must always be the same: the library keeps compute threads for each.
    """

    def __init__(self, context: Context, cores: Collection[int] | None = None) -> None:
        self.context = context
        self.sequences = Sequences(context)
        self.batch = Batch(context.n_batch)
        self._thread: ThreadPoolExecutor | None = None
        if cores is not None:
            self._thread = ThreadPoolExecutor(1, "crayon-compute", initializer=_pin, initargs=(cores,))

    @property
    def bridges(self) -> bool:
        """Whether a call is faster where the numbers of its sequences follow each other (see `batch.gaps`)."""
        # A recurrent state would take in what bridges compute.
        return not (self.context.kv_unified or self.context.model.recurrent)

    def bind(self, call: EngineCall) -> None:
        """Have the call's rows computed with the adapters of their tasks: one set for all of them.

        Raises:
            EngineError: the plan put different blends into one call, or llama.cpp refuses the adapters.
            CrayonError: they cannot be loaded.
        """
        self.context.set_adapters(adapters_of(call.tasks))

    @property
    def here(self) -> bool:
        """Whether `run` computes before it returns."""
        return self._thread is None

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Compute on the runner's thread, which may be this one."""
        if self._thread is not None:
            return self._thread.submit(work)
        done: Future[T] = Future()
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001 - the future carries it, as another thread's would
            done.set_exception(error)
        return done

    def decode(self) -> None:
        """Compute the batch; on the runner's thread."""
        self.context.decode(self.batch)

    def close(self) -> None:
        """End a thread of the runner's own; what it computes is finished first."""
        if self._thread is not None:
            self._thread.shutdown()


class SingleRunner(Generic[R]):
    """All nano-batches one after the other, on all cores.

    Args:
        runner: the runner.
        parts: engine calls that one blend's tokens of a step are computed in, at most (see `in_parts`).
    """

    def __init__(self, runner: R, parts: int = 1) -> None:
        self._runner = runner
        self._parts = parts

    @property
    def runners(self) -> tuple[R, ...]:
        """Every runner."""
        return (self._runner,)

    @property
    def neighbours(self) -> bool:
        """Whether sequences are computed faster if their numbers follow each other."""
        return not self._runner.context.kv_unified

    def rounds(self, step: StepPlan) -> list[list[tuple[R, tuple[NanoBatch, ...]]]]:
        """Return what is computed at the same time, round after round."""
        return [[(self._runner, part)] for call in step.calls() for part in in_parts(call, self._parts)]

    def apply(self, op: KvOp) -> None:
        """Do one cache operation; where it cannot be done the sequence is left empty.

        Raises:
            EngineError: the source does not hold these tokens in a way that can be gone on from.
        """
        self._runner.sequences.apply(op)

    def save(self, seq: int) -> bytes:
        """Return all that a sequence holds."""
        return self._runner.sequences.save(seq)

    def load(self, request: Request, seq: int, state: bytes) -> None:  # noqa: ARG002 - as TwoRunners
        """Put what was saved into an empty sequence."""
        self._runner.sequences.load(seq, state)

    def read(self, request: Request, seq: int) -> None:
        """Note that a prompt has been read to its end."""


class TwoRunners:
    """Prompts (and what is scored) on one runner, answers on the other.

    Args:
        decode, prefill: the runners; each with as many sequences and cells.
    """

    def __init__(self, decode: Runner, prefill: Runner) -> None:
        self._decode = decode
        self._prefill = prefill
        self._writing: set[int] = set()
        """Sequences that are in the runner of answers; all others are in that of prompts."""

    @property
    def runners(self) -> tuple[Runner, ...]:
        """Every runner."""
        return (self._decode, self._prefill)

    @property
    def neighbours(self) -> bool:
        """Whether sequences should move together; with two places for each, they stay where they are."""
        return False

    def rounds(self, step: StepPlan) -> list[list[tuple[Runner, tuple[NanoBatch, ...]]]]:
        """Return what is computed at the same time, round after round."""
        waiting: dict[Resource, list[tuple[NanoBatch, ...]]] = {Resource.DECODE: [], Resource.PREFILL: []}
        for nano in step.nano:
            waiting[Resource.DECODE if nano.resource is Resource.DECODE else Resource.PREFILL].append((nano,))
        decodes, prefills = waiting[Resource.DECODE], waiting[Resource.PREFILL]
        rounds = []
        for i in range(max(len(decodes), len(prefills))):
            both = ((self._decode, decodes), (self._prefill, prefills))
            rounds.append([(runner, calls[i]) for runner, calls in both if i < len(calls)])
        return rounds

    def apply(self, op: KvOp) -> None:
        """Do one cache operation; what another begins with is brought to where prompts are read.

        Raises:
            EngineError: the source does not hold these tokens in a way that can be gone on from; the sequence is left
                empty.
        """
        if op.seq == op.source:
            self._of(op.seq).sequences.apply(op)
            if not op.keep:
                self._writing.discard(op.seq)
            return
        source = self._of(op.source)
        self._of(op.seq).sequences.empty(op.seq)
        self._writing.discard(op.seq)
        if source is self._prefill:
            source.sequences.apply(op)
        elif op.keep:
            if not source.context.reaches(op.source, op.keep):
                raise EngineError(f"sequence {op.source} cannot be copied in part: this kind of memory is used whole")
            try:
                self._prefill.sequences.load_part(op.seq, source.sequences.save(op.source), op.keep)
            except Exception:
                self._prefill.sequences.empty(op.seq)
                raise

    def save(self, seq: int) -> bytes:
        """Return all that a sequence holds."""
        return self._of(seq).sequences.save(seq)

    def load(self, request: Request, seq: int, state: bytes) -> None:
        """Put what was saved into an empty sequence."""
        if request.decoding:
            self._writing.add(seq)
        self._of(seq).sequences.load(seq, state)

    def read(self, request: Request, seq: int) -> None:
        """Hand a prompt that has been read over to the runner that writes its answer."""
        if request.kind is Kind.GENERATE and seq not in self._writing:
            self._decode.sequences.load(seq, self._prefill.sequences.save(seq))
            self._prefill.sequences.empty(seq)
            self._writing.add(seq)

    def _of(self, seq: int) -> Runner:
        return self._decode if seq in self._writing else self._prefill


def open_runners(
    model: Model,
    limits: StepLimits,
    threads: int | None,
    overlap: str,
    prefill_threads: int | None,
    *,
    kv_unified: bool,
) -> SingleRunner[Runner] | TwoRunners:
    """Make the contexts and their threads.

    Args:
        model: the weights of all runners.
        limits: what each of them can hold.
        threads: compute threads; None: the cores this process may use.
        overlap: "none" or "dual".
        prefill_threads: with "dual", how many cores read prompts; None: half of them.
        kv_unified: whether sequences share cells.

    Raises:
        ConfigError: there is no such overlap.
        EngineError: no memory for a context.
    """
    # Room for the rows that bridge gaps, of which a full step may need some too.
    rows = limits.max_tokens + limits.max_seqs

    def context(count: int | None) -> Context:
        return Context(
            model,
            n_ctx=limits.kv_capacity,
            n_batch=rows,
            n_ubatch=min(rows, GRAPH),
            n_seq_max=limits.max_seqs,
            n_outputs_max=limits.outputs,
            threads=count,
            kv_unified=kv_unified,
        )

    if overlap == "none":
        return SingleRunner(Runner(context(threads)), limits.parts)
    if overlap != "dual":
        raise ConfigError("overlap", f"must be none or dual, not {overlap!r}")
    cores = usable_core_ids()[: threads or None]
    writing, reading = core_sets(cores, len(cores) // 2 if prefill_threads is None else prefill_threads)
    first = context(len(writing))
    try:
        return TwoRunners(Runner(first, writing), Runner(context(len(reading)), reading))
    except Exception:
        first.close()
        raise


def core_sets(cores: Sequence[int], prefill: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the cores that write answers and the `prefill` that read prompts, at least one each."""
    split = min(max(len(cores) - prefill, 1), max(len(cores) - 1, 1))
    return tuple(cores[:split]), tuple(cores[split:] or cores)


def _pin(cores: Collection[int]) -> None:
    """Bind this thread, before it computes for the first time: ggml's own threads are then bound alike."""
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # cores can be taken away; then it runs where it may
            os.sched_setaffinity(0, cores)
