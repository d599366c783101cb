"""Texts as states of a middle layer of the model that answers: no second model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import EngineError
from crayon.llama.context import Context
from crayon.llama.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.llama.batch import Batch
    from crayon.llama.model import Model


def middle_layer(n_layer: int) -> int:
    """Return the layer that is read, counted from 0: just under the middle, where tasks are told apart best."""
    return n_layer // 2 - 1


class LayerEncoder:
    """Computes hidden states in a context of its own, whose graphs end at the layer that is read.

    Two traps of plain mean pooling are avoided. The first token is an attention sink, whose huge activation makes all
    cosines 1.00: a sink token is put in front and left out of the mean. And all texts share a large common part: the
    mean over a set of background texts, the centre, is subtracted.

    Args:
        model: the weights; must outlive this.
        n_ctx: cells of the cache, so also the longest text.
        n_batch: most tokens in one step.
        n_seq_max: most texts computed together.
        threads: compute threads.
        layer: the layer to read (None: `middle_layer`).

    Raises:
        EngineError: no memory for the context.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_seq_max: int,
        threads: int | None = None,
        layer: int | None = None,
    ) -> None:
        self.model = model
        self.layer = middle_layer(model.n_layer) if layer is None else layer
        self.dimensions = model.n_embd
        self._tap = Tap(f"l_out-{self.layer}", model.n_embd, stop=True)
        self.context = Context(
            model,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_seq_max=n_seq_max,
            n_outputs_max=n_seq_max,
            threads=threads,
            tap=self._tap,
        )
        self._sink = model.bos if model.bos >= 0 else model.eos

    def tokenize(self, text: str) -> list[int]:
        """Return sink and tokens of a text. From any thread."""
        return [self._sink, *self.model.tokenize(text)]

    def decode(self, batch: Batch) -> NDArray[np.float32]:
        """Compute a batch and return its hidden states, shape (rows, dimensions).

        Raises:
            EngineError: as `Context.decode`, or the layer did not give a state for each row.
        """
        self._tap.take()  # what a failed step left
        self.context.decode(batch)
        states = self._tap.take()
        if len(states) != batch.size:
            raise EngineError(f"layer {self._tap.tensor} gave {len(states)} rows for {batch.size} tokens")
        return states

    def close(self) -> None:
        """Free the context. Safe to call twice."""
        self.context.close()


def add_states(total: NDArray[np.float64], states: NDArray[np.float32], start: int) -> None:
    """Add states of a text from position `start` on to its sum, shape (dimensions,); the sink does not count."""
    total += states[1 if start == 0 else 0 :].sum(axis=0, dtype=np.float64)


def mean_states(totals: NDArray[np.float64], texts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the mean state of each text from its sum, shape (texts, dimensions)."""
    counts = np.array([max(len(text) - 1, 1) for text in texts], np.float64)
    return np.asarray(totals / counts[:, None], np.float64)


def unit_vectors(means: NDArray[np.floating], centre: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return centred vectors of length 1, comparable by cosine; shapes (texts, dimensions) and (dimensions,)."""
    centred = means - centre
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12), np.float32)
