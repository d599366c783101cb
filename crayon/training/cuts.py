"""Tasks of free answers that are cut out of other tasks' questions by a plain rule: a slot, a form, a place in a text.

Nobody wrote answers for them, and examples are the only way to know which rule is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

Cut: TypeAlias = Callable[[str], str | None]

_MOST_WORDS = 25  # of a question that something is cut from
_LONGEST_SLOT = 5  # words


def _behind(word: str) -> Cut:
    """Return a cut of the words behind `word`, where it stands once and not at the end."""

    def cut(text: str) -> str | None:
        words = text.rstrip(" .?!").split()
        if words.count(word) != 1:
            return None
        slot = words[words.index(word) + 1 :]
        return " ".join(slot) if 1 <= len(slot) <= _LONGEST_SLOT else None

    return cut


def _number(text: str) -> str | None:
    found = re.findall(r"\d[\d.,:]*\d|\d", text)
    return found[0] if len(found) == 1 else None


def _name(text: str) -> str | None:
    """Return the only run of words with capitals that does not start the text."""
    found = re.findall(r"(?<=[a-z,] )[A-Z][\w'-]*(?: [A-Z][\w'-]*)*", text)
    return found[0] if len(found) == 1 else None


def _last_word(text: str) -> str | None:
    words = re.findall(r"[\w'-]+", text)
    return words[-1] if len(words) > 2 else None


def _longest_word(text: str) -> str | None:
    words = sorted(re.findall(r"[\w'-]+", text), key=len)
    return words[-1] if len(words) > 2 and len(words[-1]) > len(words[-2]) else None


def _start(text: str) -> str | None:
    words = text.split()
    return " ".join(words[:3]) if len(words) > 4 else None


def _capitals(text: str) -> str | None:
    return text.upper() if 3 <= len(text.split()) <= 12 else None


def _please(text: str) -> str | None:
    return f"Please help me: {text.rstrip(' .?!')}." if 3 <= len(text.split()) <= 12 else None


CUTS: dict[str, Cut] = {
    **{
        f"behind-{word}": _behind(word) for word in ("about", "at", "for", "from", "in", "my", "of", "on", "to", "with")
    },
    "capitals": _capitals,
    "last-word": _last_word,
    "longest-word": _longest_word,
    "name": _name,
    "number": _number,
    "please": _please,
    "start": _start,
}


def cut(rule: str, text: str) -> str | None:
    """Return what the rule of this name cuts out of a question, or None where the question does not hold it."""
    if "\n" in text or len(text.split()) > _MOST_WORDS:
        return None
    return CUTS[rule](text)
