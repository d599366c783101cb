"""Texts as states of a middle layer of the model that answers: no second model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import EngineError
from crayon.llama.context import Context
from crayon.llama.signals import check_finite
from crayon.llama.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.llama.batch import Batch
    from crayon.llama.model import Model


# A token counts for more the more it has read before it, up to this many, itself included.
READ = 4


def middle_layer(n_layer: int) -> int:
    """Return the layer that is read, counted from 0: two fifths up, where tasks are told apart best."""
    return max(2 * n_layer // 5 - 1, 0)


def sink_of(model: Model) -> int:
    """Return the token that is put in front of a text to be the attention's sink."""
    return model.bos if model.bos >= 0 else model.eos


class LayerEncoder:
    """Computes hidden states in a context of its own, whose graphs end at the layer that is read.

    Traps of plain mean pooling are avoided. The first token is an attention sink, whose huge activation makes all
    cosines 1.00: a sink token is put in front and left out of the mean. Some models (Qwen's) take the first token of
    the text as one all the same, and any model may make one of a token within: so each token's state is brought to
    length 1 before the mean. A text's first tokens know nothing of the text yet: they count for less. And all texts
    share a large common part: the mean over a set of background texts, the centre, is subtracted. What was measured is
    in docs/explanation/encoders.md.

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

    def tokenize(self, text: str) -> list[int]:
        """Return sink and tokens of a text. From any thread."""
        return [sink_of(self.model), *self.model.tokenize(text)]

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
    """Add states of a text from position `start` on to its sum, shape (dimensions,), each weighed and of length 1.

    Raises:
        NotFiniteError: the states are not finite.
    """
    rows = states.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
    check_finite(float(lengths.max(initial=0.0)), "states")
    total += (_token_weights(start, len(rows)) / lengths) @ rows


def mean_states(totals: NDArray[np.float64], texts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the weighed mean of each text's unit states from its sum, shape (texts, dimensions)."""
    weights = np.array([max(_token_weights(0, len(text)).sum(), 1.0) for text in texts], np.float64)
    return np.asarray(totals / weights[:, None], np.float64)


def _token_weights(start: int, count: int) -> NDArray[np.float64]:
    """Return what the tokens of a text from position `start` on count, shape (count,): the sink, at 0, nothing."""
    return np.minimum(np.arange(start, start + count, dtype=np.float64), READ)


def unit_vectors(means: NDArray[np.floating], centre: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return centred vectors of length 1, comparable by cosine; shapes (texts, dimensions) and (dimensions,)."""
    centred = means - centre
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12), np.float32)
