"""What a row of logits says about the token taken from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from crayon.engine import TokenSignal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


# Logits up to here need no shift before float32's exp, whatever their number; real models stay under 50.
_SAFE = 60.0


class SignalMeter:
    """Computes token signals in place, without allocating: this runs once for every token. Not thread-safe."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self._shifted: NDArray[np.float32] = np.empty(n_vocab, np.float32)
        self._exp: NDArray[np.float32] = np.empty(n_vocab, np.float32)
        self._ones: NDArray[np.float32] = np.ones(n_vocab, np.float32)

    def measure(self, logits: NDArray[np.float32], token: int | None = None) -> tuple[int, TokenSignal]:
        """Return `token` (by default the likeliest) and its signal. `logits` has shape (n_vocab,) and is not changed.

        With p = softmax(logits): logprob = ln p[token], entropy = -sum p ln p, margin = p(1) - p(2).
        """
        best = int(logits.argmax())
        top = float(logits[best])
        exp, shift, values = self._exp, 0.0, logits
        if abs(top) > _SAFE:
            shift, values = top, np.subtract(logits, logits[best], out=self._shifted)
        np.exp(values, out=exp)
        total = float(exp.dot(self._ones))  # a third of the time of sum()
        log_total = math.log(total)
        with np.errstate(invalid="ignore"):
            weighted = float(exp.dot(values))
        if math.isnan(weighted):  # a banned token's -inf, times its probability of 0
            weighted = float(exp.dot(np.maximum(values, np.float32(-1000.0), out=self._shifted)))
        entropy = log_total - weighted / total
        chosen = best if token is None else token
        logprob = float(logits[chosen]) - shift - log_total
        first = float(exp[best])
        exp[best] = 0.0
        margin = (first - float(exp.max())) / total
        return chosen, TokenSignal(logprob, max(entropy, 0.0), margin)


def log_softmax_at(logits: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Return ln softmax(logits)[token] for each token; `logits` has shape (n_vocab,)."""
    top = float(logits.max())
    log_total = top + math.log(float(np.exp(logits - top).sum(dtype=np.float64)))
    return np.asarray(logits[np.asarray(tokens)], np.float64) - log_total
