"""The two-turn questions: MT-Bench's 80, read from the folder of datasets."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.data.qa import MAX_LINE, data_folder
from crayon.errors import ConfigError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "routing/mtbench_questions.jsonl.gz"
MOST = 10_000


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """What a user says, turn by turn."""

    id: int
    category: str
    turns: tuple[str, ...]


def load_questions(count: int | None = None) -> list[ChatQuestion]:
    """Return the questions, or `count` of them with as many of each category as there is room for.

    Raises:
        ConfigError: the folder of datasets has no such file.
        InvalidRequestError: the file cannot be read, or `count` is below 1.
    """
    path = data_folder() / FILE
    if not path.is_file():
        raise ConfigError("CRAYON_DATA", f"{path} is not there; set CRAYON_DATA to a folder that has it")
    if count is not None and count < 1:
        raise InvalidRequestError("--questions", "must be at least 1")
    found = list(_read(path))
    if count is None or count >= len(found):
        return found
    seen: dict[str, int] = {}
    ranks = []
    for question in found:
        ranks.append(seen.get(question.category, 0))
        seen[question.category] = ranks[-1] + 1
    chosen = sorted(range(len(found)), key=lambda i: (ranks[i], i))[:count]
    return [found[i] for i in sorted(chosen)]


def _read(path: Path) -> Iterator[ChatQuestion]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number in range(1, MOST + 1):
                line = file.readline(MAX_LINE + 1)
                if not line:
                    return
                yield _question(line, f"{path.name}:{number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidRequestError("questions", f"{path} cannot be read: {error}") from None
    raise InvalidRequestError("questions", f"{path.name} has more than {MOST} lines")


def _question(line: str, where: str) -> ChatQuestion:
    try:
        fields: dict[str, Any] = json.loads(line)
        question = ChatQuestion(
            int(fields["question_id"]), str(fields["category"]), tuple(str(turn) for turn in fields["turns"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError("questions", f"{where} is not a question: {error!r}") from None
    if not question.turns or not all(turn.strip() for turn in question.turns):
        raise InvalidRequestError("questions", f"{where} has a turn without text")
    return question
