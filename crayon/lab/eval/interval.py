"""Paired 95 % intervals: what would have come out with other items, and with other draws of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Scores: TypeAlias = NDArray[np.float64]

ROUNDS = 4000
_SEED = 150


def bootstrap(
    pairs: Sequence[tuple[Scores, Scores]],
    statistic: Literal["difference", "ratio"] = "difference",
    *,
    rounds: int = ROUNDS,
) -> tuple[float, float, float]:
    """Return the figure and its 95 % interval (low, high).

    The figure is the mean over tasks of the first of each pair minus, or over, that of the second. In each round every
    task's items are drawn again with replacement, and so are its draws: the same ones for both of a pair.

    Args:
        pairs: for each task two arrays of shape (draws, items) of scores; a lone draw stands beside all of the other's.
        statistic: how the two are compared.
        rounds: how often.
    """
    if not pairs:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(_SEED)
    first, second = np.zeros(rounds + 1), np.zeros(rounds + 1)
    for ours, theirs in pairs:
        # The first row is the data as they are.
        draws = _weights(rng, rounds, max(len(ours), len(theirs)))
        items = _weights(rng, rounds, ours.shape[1])
        for total, scores in ((first, ours), (second, theirs)):
            by_item = np.broadcast_to(scores, (draws.shape[1], scores.shape[1]))
            total += np.einsum("rd,dn,rn->r", draws, by_item, items, optimize=True) / len(pairs)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = first - second if statistic == "difference" else first / second
    # A round in which the second is 0 says nothing about the ratio.
    finite = values[1:][np.isfinite(values[1:])]
    if not len(finite) or not np.isfinite(values[0]):
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def _weights(rng: np.random.Generator, rounds: int, count: int) -> Scores:
    """Return shape (rounds + 1, count): how often each was drawn, as shares; the first row has each once."""
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=rounds)
    return np.concatenate([np.ones((1, count)), drawn]) / count
