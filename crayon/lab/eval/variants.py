"""What a user's questions are answered with: the blend that customising gives, and everything it stands beside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.gate import similarities, weights
from crayon.completion import Blend
from crayon.customising.customise import customise
from crayon.customising.refine import Search
from crayon.lab.eval.settings import FAR_CONTROLS
from crayon.messages import Message
from crayon.router.scope import ScopeGate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.customising.customise import NewCustomization
    from crayon.lab.eval.cases import UserCase, UserTask
    from crayon.lab.eval.device_runner import DeviceRunner
    from crayon.lab.eval.product import Product
    from crayon.lab.eval.settings import EvalSettings

BLEND = "blend"
# The customisation as its user gets it: checked, with every evidence.
COMBINED = "combined"
SEARCHES = 40
# The same for every draw.
FIXED = ("base", "own", "all_data", "uniform", "uniform_group")
ORDER = (*FIXED, BLEND, COMBINED, "top1", "top1_mass", "fixed", "random_b", "fewshot", "fresh", "lorahub")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to answer: a blend for each item (None: the base), after these turns; or a customisation, checked."""

    blends: tuple[Blend | None, ...]
    shots: tuple[Message, ...] = ()
    product: Product | None = None


@dataclass(frozen=True, slots=True)
class Others:
    """Blends from outside the pool; what is not there is None or missing."""

    all_data: Blend | None = None
    random_pool: str | None = None
    fresh: Mapping[tuple[str, str, int], Blend] = field(default_factory=dict)


class Variants:
    """Makes the variants of each user.

    Args:
        subject: the device.
        pool: the pool that is blended.
        tasks: those of its members that have one.
        settings: what is to be measured.
        others: blends from outside the pool.
    """

    def __init__(
        self, subject: DeviceRunner, pool: Pool, tasks: Sequence[UserTask], settings: EvalSettings, others: Others
    ) -> None:
        self._subject = subject
        self._pool = pool
        self._tasks = tuple(tasks)
        self._settings = settings
        self._others = others

    def plan(self, case: UserCase) -> list[tuple[str, int]]:
        """Return the names of a user's variants, each with its number of draws."""
        plan: list[tuple[str, int]] = []
        for name in ORDER:
            if name == BLEND:
                sizes = self._settings.samples
                plan += [(name if i == 0 else f"{name}@{size}", self._settings.draws) for i, size in enumerate(sizes)]
            elif name == "base" or (name in self._settings.controls and self._has(name, case)):
                plan.append((name, 1 if name in FIXED else self._settings.of_draws(name)))
        return plan

    def make(self, case: UserCase, name: str, draws: int) -> Iterator[Variant]:
        """Yield the variant for each of the draws; embeds samples, and searches where the variant does."""
        if name in FIXED:
            yield self._same(case, self._constant(case, name)) if name != "own" else self._own(case)
            return
        size = int(name.partition("@")[2] or self._settings.samples[0])
        for draw in range(draws):
            yield self._drawn(case, name.partition("@")[0], draw, size)

    def _has(self, name: str, case: UserCase) -> bool:
        if case.group == "far":
            return name in FAR_CONTROLS and (name != "all_data" or self._others.all_data is not None)
        return {
            "own": all(task.member is not None for task in case.tasks),
            "all_data": self._others.all_data is not None,
            "uniform_group": bool(self._group(case)),
            "fixed": len(case.tasks) > 1,
            "random_b": self._others.random_pool is not None,
            "fresh": (case.group, case.name, 0) in self._others.fresh,
        }.get(name, True)

    def _constant(self, case: UserCase, name: str) -> Blend | None:
        if name == "base":
            return None
        if name == "all_data":
            return self._others.all_data
        group = range(len(self._pool)) if name == "uniform" else self._group(case)
        return self._shares(list(group))

    def _own(self, case: UserCase) -> Variant:
        own = [self._shares([task.member]) for task in case.tasks if task.member is not None]
        return Variant(tuple(own[i] for i in case.of_task))

    def _drawn(self, case: UserCase, name: str, draw: int, size: int) -> Variant:
        if name == "fewshot":
            return Variant((None,) * len(case.items), _shots(case, draw, size))
        if name == "fresh":
            return self._same(case, self._others.fresh[(case.group, case.name, draw)])
        if name == "lorahub":
            return self._same(case, self._searched(case, draw, size))
        if name == COMBINED:
            product = self._subject.product(case.samples(draw, size), self._pool.id)
            return Variant((None,) * len(case.items), product=product)
        draft = customise(self._subject.calls, "eval", case.samples(draw, size), pool_id=self._pool.id)
        if name in ("top1", "top1_mass"):
            shares = np.zeros(len(self._pool))
            best = int(np.argmax(similarities(draft.vectors, self._pool.keys)))
            # What the gate's mixture gains may come from its smaller total alone.
            shares[best] = 1.0 if name == "top1" else self._pool.manifest.gate.mass
            return self._same(case, self._blend(shares))
        if name == "fixed":
            similarity = similarities(draft.vectors, self._pool.keys)
            shares = weights(similarity, self._pool.manifest.gate, len(draft.vectors))
            return self._same(case, self._blend(shares))
        chosen = self._per_query(case, draft)
        if name == "random_b" and self._others.random_pool is not None:
            other = self._others.random_pool
            return Variant(tuple(None if blend is None else Blend(other, blend.weights) for blend in chosen))
        return Variant(chosen)

    def _per_query(self, case: UserCase, draft: NewCustomization) -> tuple[Blend | None, ...]:
        """Return the blend of the profile that each question is nearest to, as the client chooses it."""
        made = draft.customization
        if len(made.profiles) == 1:
            return (made.blend(made.profiles[0].name),) * len(case.items)
        gate = ScopeGate([profile.scope() for profile in made.profiles])
        vectors, _, _ = self._subject.calls.vectors(self._pool, [item.prompt for item in case.items])
        return tuple(made.blend(gate.judge(vector).name) for vector in vectors)

    def _searched(self, case: UserCase, draw: int, size: int) -> Blend | None:
        """Return what LoRAHub's kind of search finds: all members, no similarity, led by the samples' likelihood."""
        items = case.draws[draw][:size]
        count = len(self._pool)
        search = Search([1.0 / count] * count, [0.0] * count, seed=draw)
        for _ in range(SEARCHES):
            blend = self._blend(np.array(search.propose()))
            search.tell(self._subject.likelihood(items, blend))
        return self._blend(search.best)

    def _group(self, case: UserCase) -> list[int]:
        """Return the members trained on the user's data sets."""
        wanted = {task.dataset for task in case.tasks} - {""}
        return [task.member for task in self._tasks if task.dataset in wanted and task.member is not None]

    def _shares(self, members: Sequence[int]) -> Blend | None:
        shares = np.zeros(len(self._pool))
        shares[list(members)] = 1.0 / len(members)
        return self._blend(shares)

    def _blend(self, shares: NDArray[np.floating]) -> Blend | None:
        return Blend(self._pool.id, tuple(float(value) for value in shares)) if np.any(shares) else None

    def _same(self, case: UserCase, blend: Blend | None) -> Variant:
        return Variant((blend,) * len(case.items))


def _shots(case: UserCase, draw: int, size: int) -> tuple[Message, ...]:
    turns = [(item.prompt, item.answer_text) for item in case.draws[draw][:size]]
    return tuple(
        message for question, answer in turns for message in (Message("user", question), Message("assistant", answer))
    )
