"""From calls that were timed to a `StepCost`, and how far off it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.errors import InvalidRequestError
from crayon.server.cost.step_cost import StepCost, StepShape

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    Values: TypeAlias = NDArray[np.float64]
    Sample: TypeAlias = tuple[StepShape, float]

FOLDS = 5
# Where the ridge is looked for, at most: enough for every power of two, and for the calls of a running server.
_CUTS = 16
# Residuals count in full up to this many standard deviations (Huber's usual choice: 95 % as good as least squares
# where nothing is wrong).
_HUBER = 1.345
_ROUNDS = 20
# A repeat counts up to this many standard deviations from the median.
_NEAR = 3.0
# Standard deviations in a median distance, if errors are normal.
_SIGMA = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A cost and how well it fits. Errors are shares of the measured time, which is one for all repeats of a shape.

    Args:
        cost: the cost.
        error: median of the absolute errors.
        error_out: the same for shapes that the fit did not see; None if there were too few to leave some out.
        worst: the largest absolute error.
        noise: median distance of a repeat from the median of its shape: what no cost can explain.
        samples: calls used.
        shapes: different ones.
        largest: tokens of the largest call.
    """

    cost: StepCost
    error: float
    error_out: float | None
    worst: float
    noise: float
    samples: int
    shapes: int
    largest: int


def fit(samples: Sequence[Sample], folds: int = FOLDS) -> Fitted:
    """Return the cost that explains the timed calls best; arguments, method and errors are those of `fitting`."""
    work = fitting(samples, folds)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Fitted = end.value
            return found


def fitting(samples: Sequence[Sample], folds: int = FOLDS) -> Generator[None, None, Fitted]:
    """Find the cost that explains the timed calls best, one to three milliseconds at a time.

    Whoever computes beside it takes a piece when there is time: the whole, in a thread of its own, was seen to hold up
    an engine on all cores for 0.15 s.

    Repeats of a shape become one time: the mean of those near their median, which uses more of them than the median
    does and forgives as many outliers. Then the terms, none below 0, minimise Huber's loss of the relative errors: a
    shape that a busy neighbour slowed down each time pulls no more than one that is a little late.

    Args:
        samples: what was computed, and in how many seconds.
        folds: parts for `error_out`, by shape; 0 leaves it out.

    Raises:
        InvalidRequestError: there are none, or a time is not above 0.
    """
    if not samples:
        raise InvalidRequestError("samples", "must hold at least one timed call")
    if not all(0 < seconds < math.inf for _, seconds in samples):
        raise InvalidRequestError("samples", "must all have taken more than 0 seconds")
    times: dict[StepShape, list[float]] = {}
    for shape, seconds in samples:
        times.setdefault(shape, []).append(seconds)
    shapes = sorted(times)
    typical, noise = _typical([np.array(times[shape]) for shape in shapes])
    table = np.array(shapes, np.float64)
    counts = np.array([len(times[shape]) for shape in shapes], np.float64)
    yield
    cost = yield from _fit(table, typical, counts)
    errors = np.abs(_errors(cost, table, typical))
    error_out = yield from _left_out(table, typical, counts, folds)
    return Fitted(
        cost=cost,
        error=float(np.median(errors)),
        error_out=error_out,
        worst=float(errors.max()),
        noise=noise,
        samples=len(samples),
        shapes=len(shapes),
        largest=max(shape.tokens for shape in shapes),
    )


def _typical(times: list[Values]) -> tuple[Values, float]:
    """Return one time for each shape, and the median distance of a repeat from the median of its shape."""
    # A time without repeats is its own median; while serving, most are.
    middles = [float(repeats[0] if len(repeats) == 1 else np.median(repeats)) for repeats in times]
    distances = [np.abs(repeats / middle - 1) for repeats, middle in zip(times, middles, strict=True)]
    noise = float(np.median(np.concatenate(distances)))
    near = _NEAR * _SIGMA * noise
    typical = middles.copy()
    for at, (repeats, away) in enumerate(zip(times, distances, strict=True)):
        # An even number of repeats may have none near their median.
        if len(repeats) > 1 and (kept := repeats[away <= near]).size:
            typical[at] = float(kept.mean())
    return np.array(typical), noise


def _left_out(table: Values, seconds: Values, counts: Values, folds: int) -> Generator[None, None, float | None]:
    """Return the median error of shapes that a fit on the others did not see."""
    if folds < 2 or len(table) < 2 * folds:
        return None
    fold = np.arange(len(table)) % folds  # the table is sorted, so each part has calls of all sizes
    errors = []
    for part in range(folds):
        seen = fold != part
        cost = yield from _fit(table[seen], seconds[seen], counts[seen])
        errors.append(np.abs(_errors(cost, table[~seen], seconds[~seen])))
    return float(np.median(np.concatenate(errors)))


def _errors(cost: StepCost, table: Values, seconds: Values) -> Values:
    tokens, context, outputs, switches = table.T
    predicted = (
        cost.base
        + np.maximum(cost.per_token * tokens, cost.weights)
        + cost.per_context * context
        + cost.per_output * outputs
        + cost.per_switch * switches
    )
    errors: Values = predicted / seconds - 1
    return errors


def _fit(table: Values, seconds: Values, counts: Values) -> Generator[None, None, StepCost]:
    """Search the ridge.

    If it is known which calls lie below the ridge, the cost is linear in its six terms. If the best terms then put the
    ridge elsewhere, the best one that does not has it at one of the neighbouring token counts, and with the ridge known
    the cost is linear in five. So trying both at every token count misses none.
    """
    tokens = table[:, 0]
    one = np.ones_like(tokens)
    cuts = np.unique(tokens)
    if len(cuts) > _CUTS:
        cuts = np.unique(np.quantile(cuts, np.linspace(0, 1, _CUTS), method="nearest"))
    found: list[StepCost] = []
    for cut in (0.0, *cuts[:-1]):
        below = tokens <= cut
        known = [one, np.maximum(tokens, cut), 0 * one, *table.T[1:]]
        free = [one, np.where(below, 0, tokens), below * one, *table.T[1:]]
        for columns in (known, free) if below.any() else (known,):
            terms = _huber(np.column_stack(columns), seconds, counts)
            yield
            reading = terms[2] if columns is free else terms[1] * float(cut)
            found.append(
                StepCost(
                    base=terms[0],
                    per_token=terms[1],
                    weights=reading,
                    per_context=terms[3],
                    per_output=terms[4],
                    per_switch=terms[5],
                )
            )
    losses = [float(np.abs(_errors(cost, table, seconds)) @ counts) for cost in found]
    # Bends that no call lies below all fit equally well: the lowest ridge of them claims least.
    enough = min(losses) * (1 + 1e-6) + 1e-9
    return next(cost for cost, loss in zip(found, losses, strict=True) if loss <= enough)


def _huber(columns: Values, seconds: Values, counts: Values) -> list[float]:
    """Return terms of 0 or more that minimise Huber's loss of the relative errors, by reweighted least squares."""
    relative = columns / seconds[:, None]
    weights = counts
    terms = np.zeros(columns.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        before, terms = terms, nnls(relative * root[:, None], root)
        distance = np.abs(relative @ terms - 1)
        scale = _SIGMA * float(np.median(distance))
        if scale < 1e-9 or (np.abs(terms - before) <= 1e-3 * terms).all():
            break
        weights = counts * np.minimum(1, _HUBER * scale / np.maximum(distance, 1e-12))
    return [float(term) for term in terms]


def nnls(columns: Values, target: Values) -> Values:
    """Return x, none below 0, that minimises |columns x - target| (Lawson and Hanson's active set)."""
    size = np.linalg.norm(columns, axis=0)
    size[size == 0] = 1
    unit = columns / size
    gram, right = unit.T @ unit, unit.T @ target
    x = np.zeros(len(size))
    used: NDArray[np.bool_] = np.any(
        columns != 0, axis=0
    )  # most often all are above 0 without any help: try that first
    for _ in range(10 * len(size)):
        while used.any():
            trial = np.zeros_like(x)
            trial[used] = np.linalg.lstsq(gram[used][:, used], right[used], rcond=None)[0]
            bad = used & (trial <= 0)
            if not bad.any():
                x = trial
                break
            # Go as far towards the trial as no term falls below 0, and drop those that end there.
            x = x + (trial - x) * float((x[bad] / (x[bad] - trial[bad])).min())
            used &= x > 1e-12 * x.max()
        gain = np.where(used, -np.inf, right - gram @ x)
        best = int(gain.argmax())
        if gain[best] <= 1e-10 * np.abs(right).max():
            break
        used[best] = True
    result: Values = x / size
    return result
