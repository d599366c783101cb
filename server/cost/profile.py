"""Which calls to time so that every term of a `StepCost` shows: a list for a profiler, which runs them.

Each family varies one thing: the tokens at three depths of the cache (computing, reading the weights, attending),
sequences that each write one token (as a server mostly does), rows of logits, and changes of adapters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crayon.errors import InvalidRequestError
from crayon.server.cost.step_cost import TERMS, StepCost, StepShape, most, shape_of
from crayon.server.steps.step_plan import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crayon.server.steps.limits import StepLimits

# Three are the fewest of which one may be an outlier; past 25 the terms get no better, only the noise is known better.
_FEWEST, _REPEATS = 3, 25
# A rough profile is better than none, and says of itself that it is one.
_NOISE = 0.1


class ProfileStep(NamedTuple):
    """A call to time.

    Args:
        sequences: sequences in it.
        tokens: tokens that each of them computes.
        depth: tokens that each of them has in the cache before.
        logits: rows of logits of each.
        switch: whether the adapters change before the call.
        repeats: how many times to run it; what it added to the cache is removed each time.
    """

    sequences: int
    tokens: int
    depth: int = 0
    logits: int = 1
    switch: bool = False
    repeats: int = 1

    def rows(self) -> list[Row]:
        """Return the rows of the call."""
        return [Row("profile", seq, self.depth, self.tokens, self.logits) for seq in range(self.sequences)]

    @property
    def shape(self) -> StepShape:
        """What the call computes."""
        return shape_of(self.rows(), int(self.switch))


@dataclass(frozen=True, slots=True, kw_only=True)
class CostProfile:
    """What to run, in this order.

    Args:
        recipes: by depth, so that the cache is only ever filled further, never again from the start.
        seconds: predicted time of all, filling the cache included.
        errors: how far off each term will be (standard error, as a share of it) if calls vary by a tenth and cost what
            was assumed; infinite for a term that these calls do not show.
    """

    recipes: tuple[ProfileStep, ...]
    seconds: float
    errors: dict[str, float]


def profile_for(limits: StepLimits, cost: StepCost, budget_s: float, deepest: int | None = None) -> CostProfile:
    """Return the calls that show all terms best within a time.

    Cheap calls are repeated more often: each call gets about the same time. Where the budget does not hold each a few
    times, the dearest are left out; `errors` then says what is lost.

    Args:
        limits: limits of a call.
        cost: what calls may cost, roughly; needed to keep to the budget only.
        budget_s: seconds for everything.
        deepest: most tokens in one sequence; None is what the cache can hold.

    Raises:
        InvalidRequestError: the budget holds no call at all.
    """
    deepest = limits.kv_capacity if deepest is None else min(deepest, limits.kv_capacity)
    recipes = sorted(_recipes(limits, deepest), key=lambda recipe: cost.seconds(recipe.shape))
    while recipes:
        left = budget_s - _filling(recipes, limits.max_tokens, cost)
        each = [cost.seconds(recipe.shape) for recipe in recipes]
        if _FEWEST * sum(each) <= left:
            break
        recipes.pop()
    else:
        raise InvalidRequestError("budget_s", f"must be longer: {budget_s} seconds hold no call")

    def repeats(microseconds: int) -> list[int]:
        return [
            min(max(int(microseconds / 1e6 / seconds), _FEWEST), _REPEATS) if seconds else _REPEATS for seconds in each
        ]

    def total(microseconds: int) -> float:
        return sum(map(float.__mul__, each, map(float, repeats(microseconds))))

    level = most(lambda microseconds: total(microseconds) <= left, 10**12)
    chosen = [recipe._replace(repeats=times) for recipe, times in zip(recipes, repeats(level), strict=True)]
    chosen.sort(key=lambda recipe: (recipe.depth, recipe))
    return CostProfile(
        recipes=tuple(chosen),
        seconds=total(level) + budget_s - left,
        errors=expected_errors(cost, [(recipe.shape, recipe.repeats) for recipe in chosen]),
    )


def _recipes(limits: StepLimits, deepest: int) -> Iterable[ProfileStep]:
    sizes = _powers(limits.max_tokens)
    for depth in (0, deepest // 4, deepest // 2):
        yield from (ProfileStep(1, tokens, depth) for tokens in sizes if depth + tokens <= deepest)
    for sequences in _powers(limits.max_seqs)[1:]:
        for share in (8, 2):
            depth = min(deepest, limits.kv_capacity // sequences) // share
            if depth:
                yield ProfileStep(sequences, 1, depth)
    for tokens in _powers(min(limits.outputs, deepest))[1:]:
        yield ProfileStep(1, tokens, 0, tokens)
    for tokens in sizes:
        if tokens <= deepest:
            yield ProfileStep(1, tokens, 0, 1, switch=True)


def _powers(limit: int) -> list[int]:
    return [*(2**i for i in range(limit.bit_length()) if 2**i < limit), limit]


def _filling(recipes: Sequence[ProfileStep], max_tokens: int, cost: StepCost) -> float:
    """Return the time to fill one sequence to the greatest depth; the others copy it."""
    depth = max(recipe.depth for recipe in recipes)
    starts = range(0, depth, max_tokens)
    return sum(cost.seconds(ProfileStep(1, min(max_tokens, depth - start), start, 0).shape) for start in starts)


def expected_errors(cost: StepCost, calls: Iterable[tuple[StepShape, int]], noise: float = _NOISE) -> dict[str, float]:
    """Return each term's standard error, as a share of it, from calls with their repeats that vary by `noise`.

    A term that is 0 in `cost`, or that the calls cannot tell from the others, has an infinite one.
    """
    rows = []
    for shape, repeats in calls:
        computing = cost.per_token * shape.tokens
        parts = [
            cost.base,
            computing if computing > cost.weights else 0.0,
            0.0 if computing > cost.weights else cost.weights,
            cost.per_context * shape.context,
            cost.per_output * shape.outputs,
            cost.per_switch * shape.switches,
        ]
        rows.append(np.array(parts) * math.sqrt(repeats) / (cost.seconds(shape) * noise))
    # The singular values are what the calls tell about each mix of terms; nothing about some mix means nothing about
    # every term in it.
    _, told, mixes = np.linalg.svd(np.array(rows), full_matrices=True)
    told = np.concatenate([told, np.zeros(len(TERMS) - len(told))])
    with np.errstate(divide="ignore"):
        unsure = np.where(told > 1e-9 * told.max(), 1 / told, np.inf)[:, None]
    weight = np.where(np.abs(mixes) > 1e-6, np.abs(mixes), 0)
    errors = np.sqrt(
        np.sum(np.square(np.multiply(unsure, weight, where=weight > 0, out=np.zeros_like(weight))), axis=0)
    )
    return {name: float(error) for name, error in zip(TERMS, errors, strict=True)}
