"""How likely tokens are, by one row of logits, for callers who want to know."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from crayon.llama.signals import check_finite
from crayon.token_options import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def token_logprob(logits: NDArray[np.float32], token: int, top: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """Return how likely a token is, with the `top` likeliest in its place; `logits` has shape (n_vocab,).

    Of equally likely ones the first of the vocabulary comes first; banned ones (-inf) are none.

    Raises:
        NotFiniteError: the logits are not finite.
    """
    best = check_finite(float(logits.max()))
    log_total = best + math.log(float(np.exp(logits - best).sum(dtype=np.float64)))

    def told(one: int, others: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(one, piece(one), min(float(logits[one]) - log_total, 0.0), others)

    if not top:
        return told(token)
    least = np.partition(logits, -top)[-top] if top < len(logits) else -np.inf
    found = np.flatnonzero(logits >= least)
    found = found[np.isfinite(logits[found])]
    ranked = found[np.lexsort((found, -logits[found]))][:top]
    return told(token, tuple(told(int(one)) for one in ranked))
