"""A text as detectors read it: one spelling for what looks alike, and the way back to the original."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from crayon.privacy.decoding import Decoded, decode

_PLAIN = re.compile(r"[\t\n\r\x20-\x7e]*\Z")
# Letters that show nothing, and so could stand between the digits of a number.
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u17b4\u17b5\u2800")
_DASHES = frozenset("\u2212\u2043\u02d7")
_HIDDEN = frozenset({"Cf", "Cc", "Cs", "Co", "Cn", "Mn", "Me"})


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text; `origins` says for each of its characters where the original one stands (None: same place).

    Where the text was decoded first, `decoded` leads on from there to the original.
    """

    text: str
    origins: tuple[int, ...] | None
    decoded: Decoded | None = None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return where a part of the folded text, at least one character long, stands in the original."""
        first, last = (start, end - 1) if self.origins is None else (self.origins[start], self.origins[end - 1])
        return (first, last + 1) if self.decoded is None else (self.decoded.starts[first], self.decoded.ends[last])


def readings(text: str) -> list[Folded]:
    """Return the folded text, and the folded one with its escapes decoded if it has some."""
    found = [fold(text)]
    decoded = decode(text)
    if decoded is not None:
        folded = fold(decoded.text)
        found.append(Folded(folded.text, folded.origins, decoded))
    return found


def fold(text: str) -> Folded:
    """Return `text` in one spelling, in linear time.

    Digits of any script become 0 to 9, full-width and other compatibility characters their plain ones (NFKC), spaces
    of any width a space, dashes a hyphen. What shows nothing is left out: zero-width characters, soft hyphens,
    direction marks, controls, combining marks.
    """
    if _PLAIN.match(text):
        return Folded(text, None)
    spellings: dict[str, str] = {}
    parts: list[str] = []
    origins: list[int] = []
    for i, char in enumerate(text):
        spelling = spellings.get(char)
        if spelling is None:
            spelling = spellings[char] = _spelling(char)
        if spelling:
            parts.append(spelling)
            origins.extend([i] * len(spelling))
    return Folded("".join(parts), tuple(origins))


def _spelling(char: str) -> str:
    if char in "\t\n\r":
        return char
    return "".join(map(_plain, unicodedata.normalize("NFKC", char)))


def _plain(char: str) -> str:
    category = unicodedata.category(char)
    if category in _HIDDEN or char in _FILLERS:
        return "\n" if char in "\n\x0b\x0c\x85" else ""
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category == "Pd" or char in _DASHES:
        return "-"
    if category == "Zs":
        return " "
    return "\n" if category in {"Zl", "Zp"} else char
