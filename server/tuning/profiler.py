"""From an engine to the cost of its calls: runs the recipes of the scheduler's profile and fits."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from crayon.errors import InvalidRequestError
from crayon.server.cost.fit import Fitted, fit
from crayon.server.cost.profile import ProfileStep, profile_for
from crayon.server.cost.step_cost import StepCost, StepShape

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.server.steps.limits import StepLimits
    from crayon.server.tuning.journal import Journal

# Guesses of the budget only; the fit finds the true terms.
_CONTEXT_SHARE, _OUTPUT_SHARE, _SWITCH_SHARE = 1e-4, 0.2, 0.5


class Timer(Protocol):
    """Runs one kind of call."""

    def time(self, recipe: ProfileStep) -> list[float]:
        """Return the seconds of each repeat."""
        ...

    def shape(self, recipe: ProfileStep) -> StepShape:
        """Return what the engine computes for a recipe, attention as it is on this engine."""
        ...


def profile(
    timer: Timer, limits: StepLimits, budget_s: float, journal: Journal, left: Callable[[], float], deepest: int
) -> Fitted:
    """Time the recipes and return the cost that explains them; each time is in the journal.

    Args:
        timer: runs the calls.
        limits: limits of a call.
        budget_s: seconds for all calls.
        journal: keeps what was measured.
        left: seconds that are left of the whole search; recipes stop where there are none.
        deepest: most tokens of one sequence.
    """
    rough, sizes = _rough(timer, limits, budget_s, journal)
    samples: list[tuple[StepShape, float]] = []
    for recipe in _recipes(limits, rough, budget_s, deepest):
        if recipe.switch and not timer.shape(recipe).switches:
            continue  # no adapters to change between: the same call again
        name = f"call {tuple(recipe)}"
        if name not in journal and samples and left() <= 0:
            continue
        seconds = journal.measure(name, partial(timer.time, recipe))
        samples += [(timer.shape(recipe), each) for each in seconds]
    # With a slow model these may be all there is, or the only large ones.
    for recipe in sizes:
        samples += [(timer.shape(recipe), each) for each in journal.measure(f"rough {recipe.tokens}", list)]
    return fit(samples)


def _recipes(limits: StepLimits, rough: StepCost, budget_s: float, deepest: int) -> tuple[ProfileStep, ...]:
    """Return the calls that fit into the budget, at the deepest cache that it allows; none if it holds none."""
    while deepest >= 1:
        with suppress(InvalidRequestError):
            return profile_for(limits, rough, budget_s, deepest).recipes
        deepest //= 2
    return ()


def _rough(timer: Timer, limits: StepLimits, budget_s: float, journal: Journal) -> tuple[StepCost, list[ProfileStep]]:
    """Return a cost from calls of two sizes, good enough to keep to a budget, and these calls."""

    def seconds(recipe: ProfileStep) -> float:
        return float(min(journal.measure(f"rough {recipe.tokens}", lambda: timer.time(recipe))))

    first = ProfileStep(1, 1, repeats=2)
    one = seconds(first)
    # Above the ridge, if 64 tokens that cost as much as 64 calls would not take it all.
    many = min(64 if one * 64 < budget_s else 16, limits.max_tokens)
    second = ProfileStep(1, many, repeats=2)
    per_token = max((seconds(second) - one) / max(1, many - 1), one * 1e-3)
    cost = StepCost(
        base=max(one - per_token, 0.0),
        per_token=per_token,
        per_context=per_token * _CONTEXT_SHARE,
        per_output=per_token * _OUTPUT_SHARE,
        per_switch=one * _SWITCH_SHARE,
    )
    return cost, [first, second]
