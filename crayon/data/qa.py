"""Question-answering items to train and measure on: read from a folder of datasets, never part of the package.

The folder is `$CRAYON_DATA`, by default `../shared/data`; each dataset is `qa/NAME.train.jsonl.gz` and
`qa/NAME.test.jsonl.gz`, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crayon.data.lines import read_lines
from crayon.errors import ConfigError, InvalidRequestError

DEFAULT_FOLDER = Path("../shared/data")
SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its answer.

    `choices` are the options in order, `answer` the index of the right one (None for short answers, whose other right
    answers are `aliases`); `answer_text` is always there. `context` is a passage the question is about, or "". `facts`
    are what the dataset says of it beside, by name.
    """

    id: str
    dataset: str
    task: str
    question: str
    answer_text: str
    context: str = ""
    choices: tuple[str, ...] = ()
    answer: int | None = None
    aliases: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def prompt(self) -> str:
        """What a user would type: the passage if there is one, then the question; no instruction, no options."""
        return f"{self.context}\n\n{self.question}" if self.context else self.question


def data_folder() -> Path:
    """Return the folder of datasets.

    Raises:
        ConfigError: it is not there.
    """
    folder = Path(os.environ.get("CRAYON_DATA") or DEFAULT_FOLDER)
    if not (folder / "qa").is_dir():
        raise ConfigError("CRAYON_DATA", f"{folder} has no folder 'qa' with datasets; set CRAYON_DATA to one that has")
    return folder


def datasets() -> tuple[str, ...]:
    """Return the names of all datasets there are."""
    files = (data_folder() / "qa").glob("*.train.jsonl.gz")
    return tuple(sorted(path.name.removesuffix(".train.jsonl.gz") for path in files))


def load_items(dataset: str, split: str, task: str | None = None) -> list[Item]:
    """Return the items of a dataset, or of one of its tasks, in the order of the file.

    Raises:
        ConfigError: there is no folder of datasets.
        InvalidRequestError: no such dataset, split or task, or a line is not an item.
    """
    if split not in SPLITS:
        raise InvalidRequestError("split", f"must be one of {', '.join(SPLITS)}, not {split!r}")
    if not re.fullmatch(r"\w{1,64}", dataset):
        raise InvalidRequestError("dataset", f"must be a plain name, not {dataset!r}")
    path = data_folder() / "qa" / f"{dataset}.{split}.jsonl.gz"
    if not path.is_file():
        raise InvalidRequestError("dataset", f"{dataset!r} is not in {path.parent}; there are {', '.join(datasets())}")
    found = (_item(line, where) for line, where in read_lines(path, "dataset"))
    items = [item for item in found if task is None or item.task == task]
    if not items:
        raise InvalidRequestError("task", f"{dataset} has no items of task {task!r} in its {split} split")
    return items


def _item(line: str, where: str) -> Item:
    try:
        fields: dict[str, Any] = json.loads(line)
        choices = tuple(map(str, fields["choices"]))
        item = Item(
            id=str(fields["id"]),
            dataset=str(fields["dataset"]),
            task=str(fields["task"]),
            question=str(fields["question"]),
            answer_text=str(fields["answer_text"]),
            context=str(fields.get("context") or ""),
            choices=choices,
            answer=fields["answer"],
            aliases=tuple(map(str, fields.get("answer_aliases") or ())),
            facts=tuple((str(name), str(value)) for name, value in (fields.get("meta") or {}).items()),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequestError("dataset", f"{where} is not an item: {error!r}") from None
    inside = isinstance(item.answer, int) and 0 <= item.answer < len(choices)
    if choices and item.answer is not None and not inside:
        raise InvalidRequestError("dataset", f"{where}: answer {item.answer!r} is none of its {len(choices)} choices")
    return item
