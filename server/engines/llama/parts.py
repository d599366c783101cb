"""What the loop computes with, whoever computes: llama.cpp's contexts, or another engine's under the same scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from crayon.llama.sampler import LogitRows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from crayon.errors import EngineError
    from crayon.llama.batch import Logits
    from crayon.server.engines.llama.batch import EngineCall
    from crayon.server.scheduler import KvOp, NanoBatch, Request, StepPlan

T = TypeVar("T")


class StepBatch(Protocol):
    """The rows of one call."""

    @property
    def capacity(self) -> int:
        """Most rows."""
        ...

    def clear(self) -> None:
        """Forget all rows."""
        ...

    def add(self, tokens: Sequence[int], position: int, sequences: int, logits: Logits = "none") -> range:
        """Append tokens of a sequence from a position on, and return their row numbers."""
        ...


class StepContext(LogitRows, Protocol):
    """A KV cache of many sequences, what is computed on it, and the logits of the last call."""

    @property
    def n_ctx(self) -> int:
        """Tokens that the cache holds."""
        ...

    @property
    def n_seq_max(self) -> int:
        """Sequences, numbered from 0."""
        ...

    @property
    def threads(self) -> int:
        """Most threads that compute."""
        ...

    @property
    def kv_unified(self) -> bool:
        """Whether sequences share what they begin with, so that it does not matter which one is next to which."""
        ...

    def length(self, sequence: int) -> int:
        """Return how many positions a sequence has."""
        ...

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> bool:
        """Forget the positions of a sequence from `start` on; False if the cache cannot."""
        ...

    def abort(self) -> None:
        """Stop what is computed, or what will be next. From any thread."""
        ...

    def clear_abort(self) -> None:
        """Let computing go on after `abort`."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class StepSequences(Protocol):
    """Cache operations on a runner's thread; they raise as `llama.sequences.Sequences` does."""

    def apply(self, op: KvOp) -> None:
        """Do one cache operation; where it cannot be done the sequence is left empty."""
        ...

    def wipe(self) -> dict[int, EngineError]:
        """Leave no nan in cells that are free; return the sequences that were lost by it, and why."""
        ...

    def save(self, seq: int) -> bytes:
        """Return all that a sequence holds."""
        ...

    def load(self, seq: int, state: bytes) -> None:
        """Put what was saved in place of what a sequence holds."""
        ...


class StepRunner(Protocol):
    """A context, and the one thread that computes on it."""

    @property
    def context(self) -> StepContext:
        """Where it computes."""
        ...

    @property
    def sequences(self) -> StepSequences:
        """What its sequences hold."""
        ...

    @property
    def batch(self) -> StepBatch:
        """The rows of its next call."""
        ...

    @property
    def here(self) -> bool:
        """Whether `run` computes before it returns."""
        ...

    @property
    def bridges(self) -> bool:
        """Whether a call is faster where the numbers of its sequences follow each other (see `batch.gaps`)."""
        ...

    def bind(self, call: EngineCall) -> None:
        """Have the call's rows computed with the adapters of their tasks."""
        ...

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Compute on the runner's thread, which may be this one."""
        ...

    def decode(self) -> None:
        """Compute the batch; on the runner's thread."""
        ...

    def close(self) -> None:
        """End a thread of the runner's own; what it computes is finished first."""
        ...


class StepRunners(Protocol):
    """All runners of an engine; see `llama.runners.SingleRunner` for what the methods do."""

    @property
    def runners(self) -> Sequence[StepRunner]:
        """Every runner."""
        ...

    @property
    def neighbours(self) -> bool:
        """Whether sequences are computed faster if their numbers follow each other."""
        ...

    def rounds(self, step: StepPlan) -> Sequence[Sequence[tuple[StepRunner, tuple[NanoBatch, ...]]]]:
        """Return what is computed at the same time, round after round."""
        ...

    def apply(self, op: KvOp) -> None:
        """Do one cache operation."""
        ...

    def save(self, seq: int) -> bytes:
        """Return all that a sequence holds."""
        ...

    def load(self, request: Request, seq: int, state: bytes) -> None:
        """Put what was saved into an empty sequence."""
        ...

    def read(self, request: Request, seq: int) -> None:
        """Note that a prompt has been read to its end."""
        ...
