"""Users to measure on: their samples from train splits, their questions from test splits."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from crayon.customising.sample import Sample, checked
from crayon.data.qa import load_items
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crayon.adapters.manifest import Manifest, Member
    from crayon.data.qa import Item
    from crayon.lab.eval.settings import EvalSettings

GENERALIST = "generalist"
# Items with more text than this are left out.
MAX_PROMPT_CHARS = 6000


@dataclass(frozen=True, slots=True)
class UserTask:
    """A task is one of a dataset's tasks, or a whole dataset, or several of these; `member` is trained on it."""

    name: str
    parts: tuple[tuple[str, str | None], ...]
    member: int | None = None

    @property
    def dataset(self) -> str:
        """The data set, where it is one."""
        names = {dataset for dataset, _ in self.parts}
        return names.pop() if len(names) == 1 else ""

    def items(self, split: str) -> list[Item]:
        """Return the task's usable items: those with an answer that are not too long."""
        found = [item for dataset, task in self.parts for item in load_items(dataset, split, task)]
        return [item for item in found if item.task != "oos" and len(item.prompt) <= MAX_PROMPT_CHARS]


@dataclass(frozen=True, slots=True)
class UserCase:
    """One user: of one task, or of two.

    Args:
        group: one of the settings' groups, or "unseen_extra".
        name: unique in its group.
        tasks: one, or two of which the user has half each.
        items: the questions, and
        of_task: which of the tasks each is from.
        draws: for each draw the most samples that any curve needs, those of both tasks by turns.
    """

    group: str
    name: str
    tasks: tuple[UserTask, ...]
    items: tuple[Item, ...]
    of_task: tuple[int, ...]
    draws: tuple[tuple[Item, ...], ...]

    def samples(self, draw: int, count: int) -> tuple[Sample, ...]:
        """Return a draw's first samples."""
        return as_samples(self.draws[draw][:count])


def as_samples(items: Iterable[Item]) -> tuple[Sample, ...]:
    """Return items as what a user would give: question, answer and the options there are."""
    return checked([(item.id, Sample(item.prompt, item.answer_text, _choices(item))) for item in items])


def _choices(item: Item) -> tuple[str, ...]:
    return item.choices if len(set(item.choices)) == len(item.choices) and item.answer_text in item.choices else ()


def own_tasks(manifest: Manifest) -> list[UserTask]:
    """Return the task of each member that has one of its own, in the pool's order: not the generalist's or reader's."""
    found: list[UserTask] = []
    for k, member in enumerate(manifest.members):
        if member.name != GENERALIST and member.role == "task" and member.datasets:
            found.append(UserTask(member.name, _parts(member), k))
    return found


def _parts(member: Member) -> tuple[tuple[str, str | None], ...]:
    parts: list[tuple[str, str | None]] = []
    for entry in member.datasets:
        dataset, _, task = entry.replace(":", "/").partition("/")
        parts.append((dataset, task or (_task_in_name(member.name, dataset) if len(member.datasets) == 1 else None)))
    return tuple(parts)


def _task_in_name(name: str, dataset: str) -> str | None:
    """Return the task of the data set that a member's name ends in, if it has several."""
    tasks = {item.task for item in load_items(dataset, "train")}
    plain = {task: _plain(task) for task in tasks}
    fitting = [task for task, text in plain.items() if text and _plain(name).endswith(text)]
    return max(fitting, key=len) if fitting and len(tasks) > 1 else None


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def make_cases(manifest: Manifest, settings: EvalSettings) -> list[UserCase]:
    """Return every user to measure on, in the order of the groups.

    Raises:
        ConfigError: there is no folder of datasets.
        InvalidRequestError: a data set or task is not there, or the pool's members name none.
    """
    own = own_tasks(manifest)
    if not own and {"in_pool", "mixed"} & set(settings.groups):
        raise InvalidRequestError("--pool", "its members name no data sets, so they have no tasks to measure on")
    cases: list[UserCase] = []
    if "in_pool" in settings.groups:
        cases += [_single("in_pool", task, settings) for task in _spread(own, settings.tasks)]
    if "unseen" in settings.groups:
        unseen = [UserTask(task, ((dataset, task),)) for dataset, task in settings.unseen]
        cases += [_single("unseen", task, settings) for task in unseen]
        if settings.extra:
            cases += [_single("unseen_extra", task, settings) for task in unseen]
    if "mixed" in settings.groups:
        # Without options there is nothing to score, and a pair counts only if both its halves do.
        chosen = [task for task in own if all(item.choices for item in task.items("test"))]
        cases += [_pair(first, second, settings) for first, second in pairs(chosen, settings.pairs, settings.seed)]
    if "far" in settings.groups:
        cases += [_single("far", UserTask(dataset, ((dataset, None),)), settings) for dataset in settings.far]
    return cases


def pairs(tasks: Sequence[UserTask], count: int, seed: int) -> list[tuple[UserTask, UserTask]]:
    """Return pairs of tasks: by turns of one data set, which are the hardest to tell apart, and of two."""
    left = list(combinations(tasks, 2))
    random.Random(f"{seed}|pairs").shuffle(left)  # noqa: S311 - reproducible, not secret
    used: dict[str, int] = {}
    found: list[tuple[UserTask, UserTask]] = []
    while left and len(found) < count:
        alike = len(found) % 2 == 0

        def cost(pair: tuple[UserTask, UserTask], alike: bool = alike) -> tuple[int, bool]:  # noqa: FBT001 - bound here, not passed
            first, second = pair
            same = bool(first.dataset) and first.dataset == second.dataset
            return used.get(first.name, 0) + used.get(second.name, 0), same != alike

        best = min(left, key=cost)
        left.remove(best)
        found.append(best)
        for task in best:
            used[task.name] = used.get(task.name, 0) + 1
    return found


def _spread(tasks: Sequence[UserTask], most: int) -> list[UserTask]:
    """Return at most so many tasks, of as many data sets as possible, in the given order."""
    if not most or len(tasks) <= most:
        return list(tasks)
    seen: dict[str, int] = {}
    ranks: list[int] = []
    for task in tasks:
        ranks.append(seen.get(task.dataset, 0))
        seen[task.dataset] = ranks[-1] + 1
    chosen = sorted(range(len(tasks)), key=lambda i: (ranks[i], i))[:most]
    return [tasks[i] for i in sorted(chosen)]


def _single(group: str, task: UserTask, settings: EvalSettings) -> UserCase:
    spare, train = _train(task, settings)
    items = spare if group == "unseen_extra" else _test(task, settings.items, settings.seed)
    draws = tuple(_draw(task, train, draw, settings) for draw in range(settings.draws))
    return UserCase(group, task.name, (task,), tuple(items), (0,) * len(items), draws)


def _pair(first: UserTask, second: UserTask, settings: EvalSettings) -> UserCase:
    halves = [_test(task, settings.items, settings.seed)[: settings.items // 2] for task in (first, second)]
    trains = [_train(task, settings)[1] for task in (first, second)]
    draws = []
    for draw in range(settings.draws):
        sides = [_draw(task, train, draw, settings) for task, train in zip((first, second), trains, strict=True)]
        draws.append(tuple(item for both in zip(*sides, strict=False) for item in both))
    items = tuple(item for half in halves for item in half)
    of_task = (0,) * len(halves[0]) + (1,) * len(halves[1])
    return UserCase("mixed", f"{first.name}+{second.name}", (first, second), items, of_task, tuple(draws))


def _test(task: UserTask, count: int, seed: int) -> list[Item]:
    items = task.items("test")
    random.Random(f"{seed}|test|{task.name}").shuffle(items)  # noqa: S311 - reproducible, not secret
    return items[:count]


def _train(task: UserTask, settings: EvalSettings) -> tuple[list[Item], list[Item]]:
    """Return the train items kept apart as further test items, and those that samples are drawn from."""
    # Some data sets ask one question twice, with two answers: samples must not contradict each other.
    items = list({" ".join(item.prompt.split()).casefold(): item for item in task.items("train")}.values())
    random.Random(f"{settings.seed}|extra|{task.name}").shuffle(items)  # noqa: S311 - reproducible, not secret
    kept = settings.extra if task.member is None and task.parts in [((d, t),) for d, t in settings.unseen] else 0
    return items[:kept], items[kept:]


def _draw(task: UserTask, train: Sequence[Item], draw: int, settings: EvalSettings) -> tuple[Item, ...]:
    # A prefix of a shuffle: fewer samples are always among more.
    items = list(train)
    random.Random(f"{settings.seed}|{task.name}|{draw}").shuffle(items)  # noqa: S311 - reproducible, not secret
    return tuple(items[: max(settings.samples)])
