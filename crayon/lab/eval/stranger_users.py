"""Users whose tasks no pool was trained on, read from files: labels, samples, and questions to measure with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.data.qa import Item, data_folder
from crayon.errors import InvalidRequestError
from crayon.text_form import same_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FIELD = "--strangers"


@dataclass(frozen=True, slots=True)
class Stranger:
    """One user.

    Args:
        name: of the user.
        labels: what may be answered, 2 or more.
        samples: question and answer of each.
        tests: questions with `labels` as choices.
    """

    name: str
    labels: tuple[str, ...]
    samples: tuple[tuple[str, str], ...]
    tests: tuple[Item, ...]


def read_strangers(paths: Sequence[Path] = ()) -> tuple[Stranger, ...]:
    """Return the users of these files; of none, those of `strangers/*.json` in the folder of datasets.

    A file holds an object: user, labels, samples and tests, the last two lists of question and answer.

    Raises:
        InvalidRequestError: there is no such file, it holds something else, or two users have one name.
        ConfigError: no paths are given, and there is no folder of datasets.
    """
    if not paths:
        folder = data_folder() / "strangers"
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise InvalidRequestError(FIELD, f"{folder} has no .json files; name files with {FIELD}")
    users = tuple(_read(path) for path in paths)
    names = [user.name for user in users]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(FIELD, f"two files are of one user, {name!r}; name each once")
    return users


def _read(path: Path) -> Stranger:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        name = str(record["user"])
        labels = tuple(str(label) for label in record["labels"])
        samples, tests = _pairs(record["samples"]), _pairs(record["tests"])
    except OSError as error:
        raise InvalidRequestError(FIELD, f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{path} is no user with user, labels, samples and tests: {error!r}"
        raise InvalidRequestError(FIELD, problem) from None
    keys = [same_key(label) for label in labels]
    if len(set(keys)) != len(keys) or len(keys) < 2:
        raise InvalidRequestError(FIELD, f"{path}: labels must be at least 2 different texts")
    for what, pairs in (("samples", samples), ("tests", tests)):
        if not pairs:
            raise InvalidRequestError(FIELD, f"{path}: {what} is empty")
        for i, (_, answer) in enumerate(pairs):
            if same_key(answer) not in keys:
                raise InvalidRequestError(FIELD, f"{path}: the answer of {what}[{i}] is none of the labels")
    items = tuple(
        Item(
            id=f"{name}/{i}",
            dataset="strangers",
            task=name,
            question=question,
            answer_text=answer,
            choices=labels,
            answer=keys.index(same_key(answer)),
        )
        for i, (question, answer) in enumerate(tests)
    )
    return Stranger(name, labels, samples, items)


def _pairs(given: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(one["question"]), str(one["answer"])) for one in given)
