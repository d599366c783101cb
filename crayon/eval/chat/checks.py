"""What can be said of a free answer without a judge.

That is its length, its language, whether it refuses, and, where there is one right answer, whether it ends in that.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from crayon.router.language import possible_languages
from crayon.text_form import same_key

if TYPE_CHECKING:
    from collections.abc import Mapping

LANGUAGE = "en"
# A refusal says so at once; further on the words are mostly part of a story.
_LOOKED_AT = 200
_CANNOT = r"(?:can(?:no|')t|cannot|won't|will not|don't|do not|am unable|am not able)"
_REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|afraid|unable|not able)\b"
    rf"|\bi {_CANNOT} (?:help|assist|answer|provide|do|fulfil|comply|write|create|engage)\b"
    rf"|\bas an ai\b[^.]*\b{_CANNOT}\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])-?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?(?:\s*%)?")
_TOLERANCE = 0.002


@dataclass(frozen=True, slots=True)
class Expected:
    """The one right answer: a number, or a word among others of its kind."""

    number: float | None = None
    word: str = ""
    among: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checks:
    """What the checks say of one answer.

    Args:
        words: how many.
        cut: whether it ended for its length.
        foreign: whether it is surely not in English.
        refused: whether it begins by refusing.
        exact: whether it ends in the one right answer; None where there is none.
    """

    words: int
    cut: bool
    foreign: bool
    refused: bool
    exact: bool | None


def expected() -> Mapping[tuple[int, int], Expected]:
    """Return the right answers by question and turn (counted from 1), where there is exactly one."""
    raw = tomllib.loads(resources.files("crayon.data").joinpath("chat_answers.toml").read_text(encoding="utf-8"))
    return {
        (entry["question"], entry["turn"]): Expected(
            float(entry["number"]) if "number" in entry else None, entry.get("word", ""), tuple(entry.get("among", ()))
        )
        for entry in raw["answer"]
    }


def check(text: str, wanted: Expected | None, *, cut: bool) -> Checks:
    """Return what can be said of an answer."""
    languages = possible_languages(text)
    return Checks(
        words=len(text.split()),
        cut=cut,
        foreign=bool(languages) and LANGUAGE not in languages,
        refused=_REFUSAL.search(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")[:_LOOKED_AT]) is not None,
        exact=None if wanted is None else ends_in(text, wanted),
    )


def ends_in(text: str, wanted: Expected) -> bool:
    """Whether the last number, or the last of the words in question, is the right one."""
    if wanted.number is None:
        words = "|".join(re.escape(same_key(word)) for word in sorted(wanted.among, key=len, reverse=True))
        named = re.findall(rf"(?<![\w-])(?:{words})(?![\w-])", same_key(text))
        return bool(named) and named[-1] == same_key(wanted.word)
    numbers = [_value(found.group()) for found in _NUMBER.finditer(text)]
    if not numbers or numbers[-1] is None:
        return False
    return abs(numbers[-1] - wanted.number) <= _TOLERANCE * max(abs(wanted.number), 1e-9)


def _value(text: str) -> float | None:
    """Return the value of a number, a fraction or a percentage."""
    plain = re.sub(r"[\s$,]", "", text)
    scale = 0.01 if plain.endswith("%") else 1.0
    above, _, below = plain.rstrip("%").partition("/")
    try:
        return scale * float(above) / (float(below) if below else 1.0)
    except (ValueError, ZeroDivisionError):
        return None
