"""What a pool's manifest says of its members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.adapters.manifest import Member
from crayon.training.recipe import GENERALIST
from crayon.training.tasks import source_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.adapters.manifest import Score
    from crayon.training.recipe import Recipe
    from crayon.training.tasks import TokenTask


def member_card(recipe: Recipe, task: TokenTask, score: Score) -> Member:
    """Return what is known of a member trained on one task."""
    own = task.recipe
    return Member(
        name=own.name,
        title=own.title,
        rank=recipe.rank,
        alpha=recipe.alpha,
        datasets=tuple(source_name(source) for source in own.sources),
        licences=(own.licence,) if own.licence else (),
        items=len(task.train),
        score=score,
    )


def too_little(score: Score, recipe: Recipe) -> str:
    """Return why a member of this score is left out."""
    return f"gains {score.gain:.1f} points, less than {recipe.min_gain:g}"


def generalist_card(recipe: Recipe, tasks: Sequence[TokenTask]) -> Member:
    """Return what is known of the adapter trained on all tasks together."""
    members = [task.recipe for task in tasks]
    return Member(
        name=GENERALIST,
        title="All tasks of the pool together",
        rank=recipe.rank,
        alpha=recipe.alpha,
        datasets=tuple(dict.fromkeys(source_name(s) for m in members for s in m.sources)),
        licences=tuple(dict.fromkeys(m.licence for m in members if m.licence)),
        items=sum(len(task.train) for task in tasks),
    )
