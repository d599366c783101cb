"""The server's encoder: the mean over background texts is learned on the way, from the first requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import EngineError
from crayon.llama.encoder import LayerEncoder, mean_states, unit_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.llama.model import Model


class LlamaEncoder(LayerEncoder):
    """Turns sums of hidden states into centred vectors of length 1.

    Args:
        model, n_ctx, n_batch, threads: as `LayerEncoder`.
        n_seq_max: sequences, numbered as the main context's.
        background: texts whose mean is the centre, cut to what fits; none means no centring.

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
        super().__init__(model, n_ctx=n_ctx, n_batch=n_batch, n_seq_max=n_seq_max, threads=threads)
        self._background = [self.tokenize(text)[:n_ctx] for text in background]
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._centre: NDArray[np.float64] | None = None if self._background else np.zeros(model.n_embd)
        self._lock = threading.Lock()

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
