"""Search for better weights on the user's samples: no gradients, few evaluations, judged on held-out ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.completion import Blend
from crayon.customising.expectation import choice_scores, worth
from crayon.errors import PromptTooLongError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.expectation import Metric, TrialCase

MAX_EVALUATIONS = 40
# Half of them is searched on, half is held out.
MIN_CASES = 8
MAX_CASES = 24
# Members beside the nearest ones are left alone: a few samples cannot tell many directions apart.
ACTIVE = 6
# Larger blends only make the model worse.
MAX_TOTAL = 1.2


@dataclass(frozen=True, slots=True)
class Refined:
    """What a search found: weights, whether they are other ones than before, and the samples that it did not see."""

    weights: tuple[float, ...]
    better: bool
    held_out: tuple[TrialCase, ...]


class Search:
    """One step at a time: `propose` weights, then `tell` what they are worth; more is better.

    First a few plain proposals, then random steps from the best so far, which grow after a success and shrink after a
    failure.

    Args:
        start: (K,) weights, whose worth is told first.
        similarity: (K,) how near each member is.
        seed: fixes the steps.
    """

    def __init__(self, start: Sequence[float], similarity: Sequence[float], seed: int = 0) -> None:
        self.best = np.asarray([round(weight, 3) for weight in start], np.float64)
        self.best_worth = -np.inf
        self._rng = np.random.default_rng(seed)
        order = np.argsort(-np.asarray(similarity), kind="stable")
        self._active = np.union1d(order[:ACTIVE], np.flatnonzero(self.best))
        self._size = 0.25
        self._plain = [self.best, *self._shares(order)]
        self._last = self.best

    def propose(self) -> tuple[float, ...]:
        """Return weights to evaluate."""
        self._last = self._plain.pop(0) if self._plain else self._step()
        return tuple(float(value) for value in self._last)

    def tell(self, value: float) -> None:
        """Take in what the last proposal is worth."""
        if value > self.best_worth:
            self.best, self.best_worth = self._last, value
            self._size = min(0.5, 1.5 * self._size)
        elif not self._plain:
            self._size = max(0.03, 0.85 * self._size)

    def _shares(self, order: NDArray[np.intp]) -> list[NDArray[np.float64]]:
        """Return the nearest member alone, and the two and four nearest in equal shares."""
        found: list[NDArray[np.float64]] = []
        for count in (1, 2, 4):
            share = np.zeros(len(self.best), np.float64)
            share[order[:count]] = round(1.0 / len(order[:count]), 3)
            if not any(np.array_equal(share, other) for other in [self.best, *found]):
                found.append(share)
        return found

    def _step(self) -> NDArray[np.float64]:
        step = np.zeros(len(self.best))
        chosen = self._rng.random(len(self._active)) < 0.5
        chosen[self._rng.integers(len(self._active))] = True
        step[self._active[chosen]] = self._rng.normal(scale=self._size, size=int(chosen.sum()))
        found = np.clip(self.best + step, -0.2, 1.0)
        total = np.abs(found).sum()
        return np.asarray(np.round(found * min(1.0, MAX_TOTAL / max(total, 1e-9)), 3), np.float64)


def refine(
    calls: DeviceCalls,
    pool_id: str,
    cases: Sequence[TrialCase],
    start: tuple[float, ...],
    similarity: tuple[float, ...],
    metric: Metric,
    *,
    evaluations: int = MAX_EVALUATIONS,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Refined | None:
    """Search on half of the cases; what is found is kept only if it is better on the other half.

    An evaluation scores one half under one blend; two of them are spent on the held-out half. None: too few cases.
    """
    if len(cases) < MIN_CASES:
        return None
    # Neighbours in a file are often alike: they are dealt out to both halves.
    seen, held = list(cases[::2]), list(cases[1::2])
    search = Search(start, similarity)
    for i in range(max(1, evaluations - 2)):
        progress(i, evaluations)
        search.tell(_evaluate(calls, pool_id, seen, search.propose(), metric))
    found = tuple(float(value) for value in search.best)
    progress(evaluations - 2, evaluations)
    if found == tuple(round(value, 3) for value in start):
        return Refined(start, better=False, held_out=tuple(held))
    before = _evaluate(calls, pool_id, held, start, metric)
    better = _evaluate(calls, pool_id, held, found, metric) > before
    progress(evaluations, evaluations)
    return Refined(found if better else start, better=better, held_out=tuple(held))


def _evaluate(
    calls: DeviceCalls, pool_id: str, cases: Sequence[TrialCase], weights: tuple[float, ...], metric: Metric
) -> float:
    """Return the mean log-probability of the right answers: among the choices, or as they are."""
    blend = Blend(pool_id, weights) if any(weights) else None
    values: list[float] = []
    for case in cases:
        try:
            if metric == "logprob":
                values.append(worth(calls, case, blend, metric))
            else:
                scores = choice_scores(calls, case, blend)
                values.append(float(scores[case.right] - np.logaddexp.reduce(scores)))
        except PromptTooLongError:
            continue
    return float(np.mean(values)) if values else -np.inf
