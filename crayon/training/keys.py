"""What members are known by: keys in embedding space, and from which similarity on a member answers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.whitening import whitening

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SAMPLES = 16  # of a simulated user
DRAWS = 200
# Of draws of a member's own questions, 95 of 100 reach a similarity. A tenth less is asked for: users do not phrase
# things as a data set does.
OWN_SHARE, EASE = 0.95, 0.9
# Of the mean eigenvalue, added where the spread within tasks is evened out; 0.1 to 0.3 find tasks equally well.
SHRINK = 0.2


@dataclass(frozen=True, slots=True)
class Keys:
    """What samples are compared with: unit keys (K, D), centre (D,), head (D, D) or None, `alone` for each member."""

    keys: NDArray[np.float32]
    centre: NDArray[np.float32]
    head: NDArray[np.float32] | None
    alone: tuple[float, ...]


def make_keys(states: Sequence[NDArray[np.float32]], centre: NDArray[np.float32] | None, seed: int) -> Keys:
    """Return the keys of members from the pooled states of their questions, (n, D) for each.

    Args:
        states: for each member.
        centre: to use instead of the mean of the tasks' means.
        seed: of the draws that `alone` is measured by.
    """
    head = member_head(states)
    keys, centre = member_keys(states, centre, head)
    return Keys(keys, centre, head, alone_thresholds(states, centre, head, seed))


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows (n, D) with length 1."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), np.float32)


def member_head(states: Sequence[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """Return a symmetric head (D, D) that makes the spread within tasks even in all directions; None for one task.

    Args:
        states: for each member (n, D) pooled states of its questions.
    """
    if len(states) < 2:
        return None
    return np.asarray(whitening(states, SHRINK), np.float16).astype(np.float32)  # as the pool's file keeps it


def member_keys(
    states: Sequence[NDArray[np.float32]], centre: NDArray[np.float32] | None, head: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return unit keys (K, D), and the centre (D,) that was subtracted: the mean of the tasks' means if not given.

    Args:
        states: for each member (n, D) pooled states of its questions.
        centre: to use instead.
        head: (D, D), applied after the centre.
    """
    means = np.stack([rows.mean(axis=0) for rows in states])
    centre = np.asarray(means.mean(axis=0) if centre is None else centre, np.float32)
    return unit(_through(means - centre, head)), centre


def alone_thresholds(
    states: Sequence[NDArray[np.float32]], centre: NDArray[np.float32], head: NDArray[np.float32] | None, seed: int
) -> tuple[float, ...]:
    """Return for each member nine tenths of the similarity that 95 of 100 users of its own task reach with 16 samples.

    A user's samples are drawn from the member's questions and left out of its key meanwhile.

    Args:
        states: for each member (n, D) pooled states of its questions.
        centre: (D,), of the pool.
        head: (D, D), of the pool.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    thresholds = []
    for rows in states:
        placed = _through(rows - centre, head)
        count = min(SAMPLES, max(1, len(rows) // 2))
        found = []
        for _ in range(DRAWS):
            own = rng.choice(len(rows), count, replace=False)
            rest = np.delete(placed, own, axis=0) if len(rows) > count else placed
            found.append(float(unit(rest.mean(axis=0)) @ unit(unit(placed[own]).mean(axis=0))))
        thresholds.append(round(EASE * float(np.quantile(found, 1.0 - OWN_SHARE)), 3))
    return tuple(thresholds)


def _through(rows: NDArray[np.float32], head: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return rows if head is None else np.asarray(rows @ head, np.float32)
