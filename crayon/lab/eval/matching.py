"""Whether a free answer is right: equal after what does not matter is taken away."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

from crayon.text_form import one_form

if TYPE_CHECKING:
    from crayon.data.qa import Item

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"[-+]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)%?")
# The data set's own tolerance; its units may be written or left out.
_TOLERANCES = {"tatqa": 1e-2}


def normalise(text: str) -> str:
    """Return the text in lower case, without punctuation, articles and needless spaces."""
    return " ".join(_ARTICLES.sub(" ", one_form(text).lower().translate(_PUNCTUATION)).split())


def is_right(text: str, item: Item) -> bool:
    """Whether a free answer is one of the item's right answers; numbers are compared as numbers."""
    own, number = normalise(text), _number(text)
    tolerance = _TOLERANCES.get(item.dataset, 0.0)
    for answer in (item.answer_text, *item.aliases):
        wanted = _number(answer)
        if number is not None and wanted is not None:
            if abs(number - wanted) <= tolerance * abs(wanted):
                return True
        elif own and own == normalise(answer):
            return True
    return False


def _number(text: str) -> float | None:
    """Return the number that a text is, if it is nothing else."""
    stripped = text.strip().rstrip(".").strip()
    if not _NUMBER.fullmatch(stripped):
        return None
    return float(re.sub(r"[$,%]", "", stripped))
