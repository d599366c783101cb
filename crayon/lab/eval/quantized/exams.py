"""The questions that each quantization answers: tasks, and the sets for trust and safety."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.data.qa import load_items
from crayon.lab.eval.cases import MAX_PROMPT_CHARS, own_tasks
from crayon.lab.eval.quantized.settings import BIAS, TRUTH

if TYPE_CHECKING:
    from crayon.adapters.manifest import Manifest
    from crayon.data.qa import Item
    from crayon.lab.eval.quantized.settings import QuantizedSettings


@dataclass(frozen=True, slots=True)
class Exam:
    """A set of questions with options, of a data set or parts of some; `member` answers, None: the plain model."""

    name: str
    parts: tuple[tuple[str, str | None], ...]
    count: int
    seed: int
    member: int | None = None

    def items(self) -> list[Item]:
        """Return the questions, the same ones every time.

        Raises:
            ConfigError: there is no folder of datasets.
            InvalidRequestError: a data set is not there.
        """
        found = [item for dataset, task in self.parts for item in load_items(dataset, "test", task)]
        usable = [item for item in found if item.choices and item.answer is not None]
        usable = [item for item in usable if len(item.prompt) <= MAX_PROMPT_CHARS]
        random.Random(f"{self.seed}|{self.name}").shuffle(usable)  # noqa: S311 - reproducible, not secret
        return usable[: self.count]

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Exam:
        """Return the exam that `dataclasses.asdict` made this of."""
        return cls(**{**raw, "parts": tuple((dataset, task) for dataset, task in raw["parts"])})


def exams(settings: QuantizedSettings, manifest: Manifest | None) -> list[Exam]:
    """Return every exam: plain tasks, then tasks of the pool's members, then bias and truth."""
    found = [Exam(name, ((name, None),), settings.items, settings.seed) for name in settings.tasks]
    if manifest is not None:
        own = [task for task in own_tasks(manifest) if all(item.choices for item in task.items("test"))]
        found += [
            Exam(f"{task.name}, customised", task.parts, settings.items, settings.seed, task.member)
            for task in own[: settings.customised]
        ]
    for name, count in ((BIAS, settings.bias), (TRUTH, settings.truth)):
        if count:
            found.append(Exam(name, ((name, None),), count, settings.seed))
    return found
