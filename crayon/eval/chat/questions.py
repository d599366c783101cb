"""The two-turn questions: MT-Bench's 80, read from the folder of datasets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from crayon.data.lines import read_lines
from crayon.data.qa import data_folder
from crayon.errors import ConfigError, InvalidRequestError

FILE = "routing/mtbench_questions.jsonl.gz"


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
    found = [_question(line, where) for line, where in read_lines(path, "questions")]
    if count is None or count >= len(found):
        return found
    seen: dict[str, int] = {}
    ranks = []
    for question in found:
        ranks.append(seen.get(question.category, 0))
        seen[question.category] = ranks[-1] + 1
    chosen = sorted(range(len(found)), key=lambda i: (ranks[i], i))[:count]
    return [found[i] for i in sorted(chosen)]


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
