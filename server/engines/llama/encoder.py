"""The server's encoder: the mean over background texts is learned on the way, from the first requests."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.errors import EngineError
from crayon.llama.encoder import LayerEncoder, mean_states, sink_of, unit_vectors
from crayon.server.engines.llama.sequences import Sequences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.llama.batch import Batch
    from crayon.llama.model import Model


class CentredEncoder(ABC):
    """Turns sums of hidden states into centred vectors of length 1; who computes the states is up to the engine.

    Args:
        model: its vocabulary; must outlive this.
        dimensions: of a state.
        longest: tokens of the longest text.
        background: texts whose mean is the centre, cut to what fits; none means no centring.
    """

    def __init__(self, model: Model, *, dimensions: int, longest: int, background: Sequence[str] = ()) -> None:
        self._vocabulary = model
        self.dimensions = dimensions
        self._background = [self.tokenize(text)[:longest] for text in background]
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._centre: NDArray[np.float64] | None = None if self._background else np.zeros(dimensions)
        self._lock = threading.Lock()

    def tokenize(self, text: str) -> list[int]:
        """Return sink and tokens of a text. From any thread."""
        return [sink_of(self._vocabulary), *self._vocabulary.tokenize(text)]

    def unknown(self) -> dict[int, list[int]]:
        """Return the background texts, by number, that a request must encode as well: none once all are known.

        What a request computes of them is kept even if it ends early, so that short deadlines get there in the end.
        """
        with self._lock:
            return {i: text for i, text in enumerate(self._background) if self._centre is None and i not in self._sums}

    def learn(self, number: int, total: NDArray[np.float64]) -> None:
        """Keep the sum of a background text's states, shape (dimensions,)."""
        with self._lock:
            if self._centre is not None:
                return
            self._sums.setdefault(number, total.copy())
            if len(self._sums) == len(self._background):
                totals = np.stack([self._sums[i] for i in range(len(self._background))])
                self._centre = mean_states(totals, self._background).mean(axis=0)
                self._sums.clear()

    def vectors(self, texts: Sequence[Sequence[int]], totals: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return texts as centred vectors of length 1, shape (texts, dimensions), once the background is known.

        Raises:
            EngineError: it is not.
        """
        with self._lock:
            if self._centre is None:
                raise EngineError("the background texts are not known yet")
            return unit_vectors(mean_states(totals, texts), self._centre)

    @abstractmethod
    def decode(self, batch: Any) -> NDArray[np.float32]:  # a runner's batch, of the engine's own kind
        """Compute a batch and return its hidden states, shape (rows, dimensions).

        Raises:
            EngineError: it cannot be computed, or was aborted.
        """

    @abstractmethod
    def forget(self, seq: int) -> None:
        """Empty a sequence."""

    @abstractmethod
    def wipe(self) -> dict[int, EngineError]:
        """Leave no nan in cells that are free; return the sequences that were lost by it, and why."""

    @abstractmethod
    def abort(self) -> None:
        """Stop what is computed, or what will be next. From any thread."""

    @abstractmethod
    def clear_abort(self) -> None:
        """Let computing go on after `abort`."""

    @abstractmethod
    def close(self) -> None:
        """Free it. Safe to call twice."""


class LlamaEncoder(CentredEncoder):
    """Reads the states in a llama.cpp context of its own.

    Args:
        model, n_ctx, n_batch, threads: as `LayerEncoder`.
        n_seq_max: sequences, numbered as the main context's.
        background: as `CentredEncoder`.

    Raises:
        EngineError: no memory for the context.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int,
        n_seq_max: int,
        background: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        super().__init__(model, dimensions=model.n_embd, longest=n_ctx, background=background)
        self._layer = LayerEncoder(model, n_ctx=n_ctx, n_batch=n_batch, n_seq_max=n_seq_max, threads=threads)
        self._sequences = Sequences(self._layer.context)

    def decode(self, batch: Batch) -> NDArray[np.float32]:
        """Compute a batch and return its hidden states, shape (rows, dimensions).

        Raises:
            EngineError: as `LayerEncoder.decode`.
        """
        return self._layer.decode(batch)

    def forget(self, seq: int) -> None:
        """Empty a sequence."""
        self._sequences.empty(seq)

    def wipe(self) -> dict[int, EngineError]:
        """As `Sequences.wipe`."""
        return self._sequences.wipe()

    def abort(self) -> None:
        """As `Context.abort`."""
        self._layer.context.abort()

    def clear_abort(self) -> None:
        """As `Context.clear_abort`."""
        self._layer.context.clear_abort()

    def close(self) -> None:
        """Free the context. Safe to call twice."""
        self._layer.close()
