"""What members are known by: keys in embedding space, and from which similarity on a member answers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SAMPLES = 16  # of a simulated user
DRAWS = 200
# Of draws of a member's own questions that reach its threshold. The others are blended, which costs little.
OWN_SHARE = 0.95


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows (n, D) with length 1."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), np.float32)


def member_keys(
    states: Sequence[NDArray[np.float32]], centre: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return unit keys (K, D), and the centre (D,) that was subtracted: the mean of the tasks' means if not given.

    Args:
        states: for each member (n, D) mean states of its questions.
        centre: to use instead.
    """
    means = np.stack([rows.mean(axis=0) for rows in states])
    centre = np.asarray(means.mean(axis=0) if centre is None else centre, np.float32)
    return unit(means - centre), centre


def alone_thresholds(
    states: Sequence[NDArray[np.float32]], centre: NDArray[np.float32], seed: int
) -> tuple[float, ...]:
    """Return for each member the similarity that 95 of 100 users of its own task reach with 16 samples.

    A user's samples are drawn from the member's questions and left out of its key meanwhile.

    Args:
        states: for each member (n, D) mean states of its questions.
        centre: (D,), of the pool.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    thresholds = []
    for rows in states:
        count = min(SAMPLES, max(1, len(rows) // 2))
        found = []
        for _ in range(DRAWS):
            own = rng.choice(len(rows), count, replace=False)
            rest = np.delete(rows, own, axis=0)
            key = unit(rest.mean(axis=0) - centre)
            found.append(float(key @ unit(unit(rows[own] - centre).mean(axis=0))))
        thresholds.append(round(float(np.quantile(found, 1.0 - OWN_SHARE)), 3))
    return tuple(thresholds)
