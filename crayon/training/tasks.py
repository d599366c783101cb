"""What each member is trained and measured on, in tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.errors import ConfigError
from crayon.training.recipe import MemberRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.data.qa import Item
    from crayon.training.examples import Example, Prompts
    from crayon.training.recipe import ItemSource, Recipe

KEY_TEXTS = 200  # questions whose mean embedding is a member's key
SAMPLES = 16  # of a simulated user, where weights are computed as for a real one
ROUNDS = 50  # of k-means, which settles long before


@dataclass(frozen=True, slots=True)
class TokenTask:
    """A member's task in tokens; `texts` make its key, `too_long` counts training items that were left out."""

    recipe: MemberRecipe
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    texts: tuple[str, ...]
    too_long: int


def listed_tasks(recipe: Recipe, prompts: Prompts) -> list[TokenTask]:
    """Return one task for each member of a recipe.

    Raises:
        ConfigError, InvalidRequestError: its items cannot be read, or all are too long.
    """
    return [_task(recipe, member, *_items(member, recipe), prompts) for member in recipe.members]


def clustered_tasks(
    recipe: Recipe, prompts: Prompts, embed: Callable[[Sequence[str]], NDArray[np.float32]]
) -> list[TokenTask]:
    """Return one task for each cluster of all members' questions, told apart by their embeddings (spherical k-means).

    Raises:
        ConfigError, InvalidRequestError: items cannot be read, or a cluster has none to measure on.
    """
    train: list[Item] = []
    test: list[Item] = []
    for member in recipe.members:
        for kept, found in zip((train, test), _items(member, recipe), strict=True):
            kept += found
    raw = embed([item.prompt for item in train])
    centre = raw.mean(axis=0)
    unit = _unit(raw - centre)
    centres = k_means(unit, recipe.clusters, recipe.seed)
    own = np.argmax(unit @ centres.T, axis=1)
    other = np.argmax(_unit(embed([item.prompt for item in test]) - centre) @ centres.T, axis=1)
    tasks = []
    for k in range(recipe.clusters):
        part = [item for item, cluster in zip(train, own, strict=True) if cluster == k]
        mix = Counter(item.task for item in part).most_common(3)
        member = MemberRecipe(
            name=f"cluster-{k + 1:02d}",
            title="Mostly " + ", ".join(name.replace("_", " ") for name, _ in mix),
            sources=tuple(dict.fromkeys(source for m in recipe.members for source in m.sources)),
            licence="; ".join(sorted({m.licence for m in recipe.members if m.licence})),
        )
        measured = [item for item, cluster in zip(test, other, strict=True) if cluster == k]
        tasks.append(_task(recipe, member, part, spread(measured, recipe.scored_items), prompts))
    return tasks


def k_means(unit: NDArray[np.float32], k: int, seed: int) -> NDArray[np.float32]:
    """Return (k, D) unit centres of (n, D) unit rows, by cosine; k-means++ starts it."""
    rng = np.random.default_rng(seed)
    chosen = [unit[rng.integers(len(unit))]]
    for _ in range(k - 1):
        far = np.clip(1.0 - np.max(unit @ np.stack(chosen).T, axis=1), 0.0, None) + 1e-9
        chosen.append(unit[rng.choice(len(unit), p=far / far.sum())])
    centres = np.stack(chosen)
    for _ in range(ROUNDS):
        nearest = np.argmax(unit @ centres.T, axis=1)
        # A cluster that lost all its rows keeps its place.
        means = [unit[nearest == j].mean(axis=0) if (nearest == j).any() else centres[j] for j in range(k)]
        moved = _unit(np.stack(means))
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres


def key_texts(items: Sequence[Item]) -> tuple[str, ...]:
    """Return the questions, of the items that a member is trained on, that make its key."""
    return tuple(item.prompt for item in spread(items, KEY_TEXTS))


def member_items(member: MemberRecipe) -> list[Item]:
    """Return the items that a member is trained on, before those that are too long are left out.

    Raises:
        ConfigError, InvalidRequestError: they cannot be read.
    """
    return spread([item for source in member.sources for item in source.items("train")], member.items)


def source_name(source: ItemSource) -> str:
    """Return how a manifest names a source."""
    return f"{source.dataset}/{source.task}" if source.task else source.dataset or Path(source.file).name


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` items, evenly spread, so that no part of a list is cut off."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def held_out_task(items: Sequence[Item], recipe: Recipe, prompts: Prompts) -> tuple[tuple[str, ...], list[Example]]:
    """Return the texts of a simulated user's samples, and other questions of that user."""
    measured = prompts.examples(items[SAMPLES : SAMPLES + recipe.scored_items])
    if not measured:
        raise ConfigError("held_out", f"a task has only {len(items)} items, and {SAMPLES} of them are samples")
    return tuple(item.prompt for item in items[:SAMPLES]), measured


def _items(member: MemberRecipe, recipe: Recipe) -> tuple[list[Item], list[Item]]:
    test = [item for source in member.sources for item in source.items("test")]
    return member_items(member), spread(test, recipe.scored_items)


def _task(recipe: Recipe, member: MemberRecipe, train: list[Item], test: list[Item], prompts: Prompts) -> TokenTask:
    examples = prompts.examples(train)
    short = tuple(example for example in examples if example.tokens <= recipe.max_tokens)
    measured = tuple(example for example in prompts.examples(test) if example.tokens <= recipe.max_tokens)
    for kept, use in ((short, "trained"), (measured, "measured")):
        if not kept:
            problem = f"{member.name} has no item of at most {recipe.max_tokens} tokens to be {use} on"
            raise ConfigError("max_tokens", problem)
    texts = key_texts(train)
    return TokenTask(replace(member, items=len(short)), short, measured, texts, len(examples) - len(short))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)
