"""Strangers whose answers are free texts, cut from data sets: samples from train splits, questions from test splits."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from crayon.customising.sample import Sample, checked
from crayon.data.qa import Item, load_items
from crayon.errors import InvalidRequestError
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    Pair: TypeAlias = tuple[str, str]

SAMPLES = 16
# A passage of this length is some 200 tokens: several fit the part of a context that examples may take.
MAX_PROMPT_CHARS = 800
_MOST_WORDS = 3
# A thing ends before one of these.
_LITTLE = (
    "is are was were be been to in on at for from with without and or by of if so that this will would can could "
    "should do does did have has had when while before after until next last today tomorrow not what how where who "
    "why i it"
)
_THING = re.compile(rf"\bmy ([a-z' -]+?)(?: (?:{'|'.join(_LITTLE.split())})\b|\s*$)")


@dataclass(frozen=True, slots=True)
class FreeUser:
    """One user: samples with their answers, and questions."""

    name: str
    samples: tuple[Sample, ...]
    tests: tuple[Item, ...]

    @property
    def turns(self) -> tuple[Message, ...]:
        """The samples as earlier turns, in the order they were given."""
        pairs = [(Message("user", each.question), Message("assistant", each.answer or "")) for each in self.samples]
        return tuple(message for pair in pairs for message in pair)


def free_users(questions: int, seed: int = 0) -> tuple[FreeUser, ...]:
    """Return the users, each with 16 samples and at most so many questions.

    `disfl_qa` answers questions that are corrected while they are asked, about a passage, "unknown" among the answers;
    `slots` takes the thing out of a sentence that is its speaker's (see `thing`); `wikidata_facts` completes facts.

    Raises:
        ConfigError: there is no folder of datasets.
        InvalidRequestError: a data set is not there, or has too few items.
    """
    return tuple(_user(name, dataset, pair, questions, seed) for name, (dataset, pair) in _TASKS.items())


def thing(text: str) -> str | None:
    """Return whose thing a sentence is about: the words behind its only "my", up to a little word or the end."""
    found = _THING.findall(text.rstrip(" .?!"))
    once = len(found) == 1 and text.split().count("my") == 1
    return found[0] if once and len(found[0].split()) <= _MOST_WORDS else None


def _user(name: str, dataset: str, pair: Callable[[Item], Pair | None], questions: int, seed: int) -> FreeUser:
    sides: dict[str, list[Item]] = {}
    for split in ("train", "test"):
        items = load_items(dataset, split)
        random.Random(f"{seed}|{split}|{name}").shuffle(items)  # noqa: S311 - reproducible, not secret
        sides[split] = [
            Item(item.id, dataset, name, found[0], found[1], aliases=item.aliases)
            for item in items
            if (found := pair(item)) is not None
        ]
    if len(sides["train"]) < SAMPLES or len(sides["test"]) < 2:
        raise InvalidRequestError("dataset", f"{dataset} has too few items for {SAMPLES} samples and 2 questions")
    shown = checked([(item.id, Sample(item.prompt, item.answer_text)) for item in sides["train"][:SAMPLES]])
    return FreeUser(name, shown, tuple(sides["test"][:questions]))


def _short(item: Item) -> Pair | None:
    return (item.prompt, item.answer_text) if len(item.prompt) <= MAX_PROMPT_CHARS else None


def _slot(item: Item) -> Pair | None:
    found = thing(item.question)
    return None if found is None else (item.question, found)


_TASKS: dict[str, tuple[str, Callable[[Item], Pair | None]]] = {
    "disfl_qa": ("disfl_qa", _short),
    "slots": ("clinc150", _slot),
    "wikidata_facts": ("wikidata_facts", _short),
}
