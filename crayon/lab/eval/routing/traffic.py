"""Users and their queries: half of the own task, half strangers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.data.qa import load_items
from crayon.lab.eval.cases import UserTask, own_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.adapters.manifest import Manifest
    from crayon.data.qa import Item
    from crayon.lab.eval.routing.settings import RouteSettings

OTHERS = "other tasks"


@dataclass(frozen=True, slots=True)
class Query:
    """One question of a user's traffic; `kind` is the task's name where it is the user's own, else where it is from."""

    item: Item
    kind: str
    own: bool


@dataclass(frozen=True, slots=True)
class User:
    """One user: `group` is in_pool or unseen.

    `queries` are what is measured, from test splits (or to tune with, from what the others leave of train splits);
    `draws` the samples of each draw and `known` the strangers that calibrations are made with, from train splits.
    """

    group: str
    name: str
    task: UserTask
    queries: tuple[Query, ...]
    draws: tuple[tuple[Item, ...], ...]
    known: tuple[Item, ...]


def make_users(manifest: Manifest, settings: RouteSettings) -> list[User]:
    """Return every user to measure: those of tasks in the pool, intents first, then those of tasks outside of it.

    Raises:
        ConfigError: there is no folder of datasets.
        InvalidRequestError: a data set or task is not there.
    """
    own = [task for task in own_tasks(manifest) if all(item.choices for item in task.items("test"))]
    own.sort(key=lambda task: task.dataset != settings.intents)
    unseen = [UserTask(task, ((dataset, task),)) for dataset, task in settings.unseen]
    intents = [*own, *unseen]
    chosen = own[: settings.users] if settings.users else own
    return [
        *(_user("in_pool", task, intents, settings) for task in chosen),
        *(_user("unseen", task, intents, settings) for task in unseen),
    ]


def _user(group: str, task: UserTask, intents: Sequence[UserTask], settings: RouteSettings) -> User:
    others = [other for other in intents if other.name != task.name and other.dataset == settings.intents]
    train = _distinct(task.items("train"))
    draws = tuple(
        tuple(shuffled(train, settings.seed, task.name, draw)[: settings.samples]) for draw in range(settings.draws)
    )
    known = tuple(_known(others, settings))
    taken = {" ".join(item.prompt.split()).casefold() for item in (*known, *(item for draw in draws for item in draw))}
    half, split = settings.items // 2, settings.split

    def fresh(items: Sequence[Item], *words: object) -> list[Item]:
        if split == "train":
            items = [item for item in items if " ".join(item.prompt.split()).casefold() not in taken]
        return shuffled(items, settings.seed, *words)

    own = fresh(task.items(split), split, task.name)[:half]
    queries = [Query(item, task.name, own=True) for item in own]
    kinds: list[tuple[str, list[Item]]] = [
        (OTHERS, [item for other in others for item in other.items(split)]),
        *((name, [item for item in load_items(name, split) if item.choices]) for name in settings.strangers),
    ]
    for i, (kind, items) in enumerate(kinds):
        count = len(own) // len(kinds) + (i < len(own) % len(kinds))
        # The same strangers for every user, so that the server is asked once.
        queries += [Query(item, kind, own=False) for item in fresh(items, "strangers", _name(kind, task))[:count]]
    return User(group, task.name, task, tuple(queries), draws, known)


def _known(others: Sequence[UserTask], settings: RouteSettings) -> list[Item]:
    per_kind = settings.known // (len(settings.known_strangers) + 1)
    found = []
    for name in settings.known_strangers:
        items = [item for item in load_items(name, "train") if item.choices and item.answer is not None]
        found += shuffled(items, settings.seed, "known", name)[:per_kind]
    near = [item for other in others for item in other.items("train")[:20]]
    return found + shuffled(near, settings.seed, "known", OTHERS)[:per_kind]


def _name(kind: str, task: UserTask) -> str:
    return f"{kind}|{task.name}" if kind == OTHERS else kind


def _distinct(items: Sequence[Item]) -> list[Item]:
    return list({" ".join(item.prompt.split()).casefold(): item for item in items}.values())


def shuffled(items: Sequence[Item], *words: object) -> list[Item]:
    """Return items in an order that the words alone decide."""
    found = list(items)
    random.Random("|".join(map(str, words))).shuffle(found)  # noqa: S311 - reproducible, not secret
    return found
