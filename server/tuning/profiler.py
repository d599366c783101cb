"""From an engine to the cost of its calls: runs the recipes of the scheduler's profile and fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from crayon.server.scheduler.profile import Recipe, profile_for
from crayon.server.scheduler.step_cost import StepCost, StepShape
from crayon.server.scheduler.step_fit import Fitted, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.server.scheduler.caps import Caps
    from crayon.server.tuning.journal import Journal

# Guesses of the budget only; the fit finds the true terms.
_CONTEXT_SHARE, _OUTPUT_SHARE, _SWITCH_SHARE = 1e-4, 0.2, 0.5


class Timer(Protocol):
    """Runs one kind of call."""

    def time(self, recipe: Recipe) -> list[float]:
        """Return the seconds of each repeat."""
        ...

    def shape(self, recipe: Recipe) -> StepShape:
        """Return what the engine computes for a recipe, attention as it is on this engine."""
        ...


def profile(
    timer: Timer, caps: Caps, budget_s: float, journal: Journal, left: Callable[[], float], deepest: int
) -> Fitted:
    """Time the recipes and return the cost that explains them; each time is in the journal.

    Args:
        timer: runs the calls.
        caps: limits of a call.
        budget_s: seconds for all calls.
        journal: keeps what was measured.
        left: seconds that are left of the whole search; recipes stop where there are none.
        deepest: most tokens of one sequence.
    """
    rough = _rough(timer, caps, journal)
    plan = profile_for(caps, rough, budget_s, deepest)
    samples: list[tuple[StepShape, float]] = []
    for recipe in (Recipe(1, 1, repeats=3), *plan.recipes):
        name = f"call {tuple(recipe)}"
        if name not in journal and samples and left() <= 0:
            continue
        seconds = journal.measure(name, lambda recipe=recipe: timer.time(recipe))
        samples += [(timer.shape(recipe), each) for each in seconds]
    return fit(samples)


def _rough(timer: Timer, caps: Caps, journal: Journal) -> StepCost:
    """Return a cost from calls of two sizes, good enough to keep to a budget."""
    many = min(16, caps.max_tokens)
    one, more = (
        min(journal.measure(f"rough {tokens}", lambda tokens=tokens: timer.time(Recipe(1, tokens, repeats=3))))
        for tokens in (1, many)
    )
    per_token = max((more - one) / max(1, many - 1), one * 1e-3)
    return StepCost(
        base=max(one - per_token, 0.0),
        per_token=per_token,
        per_context=per_token * _CONTEXT_SHARE,
        per_output=per_token * _OUTPUT_SHARE,
        per_switch=one * _SWITCH_SHARE,
    )
