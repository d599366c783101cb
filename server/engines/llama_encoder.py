"""Embeds texts by a middle layer of the served model, in a small context of its own."""

from __future__ import annotations

import threading
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
    from crayon.server.engines.llama_task import EncodeTask


class LlamaEncoder:
    """Hidden states just under the middle of the model, averaged over a text, centred, of length 1.

    The first token is an attention sink whose activation drowns all others, so a sink token is put in front and not
    counted. Texts share a large common part, so the mean over background texts is subtracted. The graph ends at the
    layer that is read, which is why this needs its own context.

    Args:
        model: the weights; must outlive this.
        n_ctx: cells of its cache, so also the longest text.
        n_batch: most tokens in one step.
        n_seq_max: sequences, numbered as the main context's.
        background: texts whose mean is the centre; none means no centring.
        threads: compute threads.

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
        self._model = model
        self._tap = Tap(f"l_out-{model.n_layer // 2 - 1}", model.n_embd, stop=True)
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
        self._background = [self.tokenize(text) for text in background]
        self._centre: NDArray[np.float64] | None = None if self._background else np.zeros(model.n_embd)
        self._lock = threading.Lock()

    def tokenize(self, text: str) -> list[int]:
        """Return sink and tokens of a text. From any thread."""
        return [self._sink, *self._model.tokenize(text)]

    def background(self) -> list[list[int]]:
        """Return the texts that a request must encode as well: all of the background until the centre is known."""
        with self._lock:
            return [] if self._centre is not None else self._background

    def decode(self, batch: Batch) -> NDArray[np.float32]:
        """Compute a batch and return its hidden states, shape (rows, n_embd).

        Raises:
            EngineError: as `Context.decode`, or the layer did not give a state for each row.
        """
        self._tap.take()
        self.context.decode(batch)
        states = self._tap.take()
        if len(states) != batch.size:
            raise EngineError(f"layer {self._tap.tensor} gave {len(states)} rows for {batch.size} tokens")
        return states

    def vectors(self, task: EncodeTask) -> NDArray[np.float32]:
        """Return the caller's texts as centred vectors of length 1, shape (texts, n_embd)."""
        counts = np.array([max(len(text) - 1, 1) for text in task.texts], np.float64)
        means = task.sums / counts[:, None]
        with self._lock:
            if self._centre is None:
                self._centre = means[task.wanted :].mean(axis=0)
            centred = means[: task.wanted] - self._centre
        lengths = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        return np.asarray(centred / lengths, np.float32)
