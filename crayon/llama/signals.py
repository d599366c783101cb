"""What a row of logits says about the token taken from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from crayon.engine import TokenSignal
from crayon.errors import NotFiniteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def check_finite(top: float, what: str = "logits") -> float:
    """Return the largest of a row, where it is a number: one nan is the largest of all, so it tells for the whole row.

    Raises:
        NotFiniteError: it is none, so nothing can be told from the row.
    """
    if math.isfinite(top):
        return top
    raise NotFiniteError(
        f"the model's {what} are not finite numbers: its file is damaged, or its values are too large for 16 bits"
    )


class SignalMeter:
    """Computes token signals in place, without allocating: this runs once for every token. Not thread-safe."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self._shifted: NDArray[np.float32] = np.empty(n_vocab, np.float32)
        self._exp: NDArray[np.float32] = np.empty(n_vocab, np.float32)
        self._ones: NDArray[np.float32] = np.ones(n_vocab, np.float32)

    def measure(
        self, logits: NDArray[np.float32], token: int | None = None, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[int, TokenSignal]:
        """Return `token` (by default the likeliest) and its signal. `logits` has shape (n_vocab,) and is not changed.

        With p = softmax(logits): logprob = ln p[token], entropy = -sum p ln p, margin = p(1) - p(2), and withheld the
        sum of p over the tokens that are not `allowed`, shape (n_vocab,), of which the likeliest is then one.

        Raises:
            NotFiniteError: the logits are not finite.
        """
        best = int(logits.argmax())
        top = check_finite(float(logits[best]))
        shifted, exp = self._shifted, self._exp
        np.subtract(logits, logits[best], out=shifted)
        np.exp(shifted, out=exp)
        total = float(exp.dot(self._ones))  # a third of the time of sum()
        log_total = math.log(total)
        with np.errstate(invalid="ignore"):
            weighted = float(exp.dot(shifted))
        if math.isnan(weighted):
            # A banned token's -inf, times its probability of 0. exp(-80) is 0 beside 1 in float32.
            np.maximum(shifted, np.float32(-80.0), out=shifted)
            weighted = float(exp.dot(shifted))
        entropy = log_total - weighted / total
        withheld = 0.0
        if allowed is not None:
            np.multiply(exp, allowed, out=shifted)
            withheld = min(max(1.0 - float(shifted.dot(self._ones)) / total, 0.0), 1.0)
            if token is None and not allowed[best]:
                token = likeliest_of(logits, allowed)
        chosen = best if token is None else token
        logprob = float(logits[chosen]) - top - log_total
        exp[best] = 0.0
        margin = (1.0 - float(exp.max())) / total
        return chosen, TokenSignal(logprob, max(entropy, 0.0), margin, withheld)

    def measure_rows(
        self, logits: NDArray[np.float32], tokens: Sequence[int | None] | None = None
    ) -> list[tuple[int, TokenSignal]]:
        """Return what `measure` gives for each row. `logits` has shape (n, n_vocab) and is not changed.

        `tokens` holds the token taken from each row; None, for a row or for all, takes the likeliest.

        Raises:
            NotFiniteError: logits are not finite.
        """
        # Row by row: one row and its two buffers fit into the L2 cache and numpy's exp is half of the time, so blocks
        # of several rows were measured to be a tenth slower.
        chosen = [None] * len(logits) if tokens is None else tokens
        return [self.measure(row, token) for row, token in zip(logits, chosen, strict=True)]


def likeliest(logits: NDArray[np.float32]) -> list[int]:
    """Return the likeliest token of each row, of equal ones the first; `logits` has shape (n, n_vocab).

    Raises:
        NotFiniteError: logits are not finite.
    """
    tokens: list[int] = logits.argmax(1).tolist()
    for row, token in zip(logits, tokens, strict=True):
        check_finite(row[token])
    return tokens


def likeliest_of(logits: NDArray[np.float32], allowed: NDArray[np.bool_]) -> int:
    """Return the likeliest token of those `allowed`, of which there is one; both have shape (n_vocab,).

    Raises:
        NotFiniteError: logits are not finite.
    """
    tokens = np.flatnonzero(allowed)
    chosen = int(tokens[logits[tokens].argmax()])
    check_finite(float(logits[chosen]))
    return chosen


def log_softmax_at(logits: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Return ln softmax(logits)[token] for each token; `logits` has shape (n_vocab,).

    Raises:
        NotFiniteError: the logits are not finite.
    """
    top = check_finite(float(logits.max()))
    log_total = top + math.log(float(np.exp(logits - top).sum(dtype=np.float64)))
    return np.asarray(logits[np.asarray(tokens)], np.float64) - log_total
