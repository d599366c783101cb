"""The same value in another spelling: what is found once is looked for everywhere, whether a detector sees it or not.

- A number or a key is its letters and digits: however they are grouped, wrapped, quoted or marked, in small letters or
  capitals, joined to other letters or digits.
- A phone number with a country code is the one without it, too.
- An e-mail address is what it is once "(at)" and "[dot]" are read and gaps are left out.
- Any other value is itself, in small letters or capitals, where no word goes on before or after it.

All of them with escapes decoded (`decoding`), and within what is base64 or hexadecimal; that is then replaced whole.
"""

from __future__ import annotations

import base64
import contextlib
import re
from typing import TYPE_CHECKING

from crayon.privacy.finding import CARD, EMAIL, IBAN, NATIONAL_ID, PHONE, SECRET, Finding
from crayon.privacy.folding import fold, readings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from crayon.privacy.folding import Folded

_COMPACT = frozenset({PHONE, CARD, IBAN, NATIONAL_ID, SECRET})
_NUMBERS = _COMPACT - {SECRET}
# Fewer letters and digits could stand anywhere.
_FEWEST = 6
# A phone number's last digits without country code and trunk prefix, where it has more.
_NATIONAL = 9
_AT = re.compile(r"[\[({<]\s?(?:@|at|a)\s?[\])}>]", re.IGNORECASE)
_DOT = re.compile(r"[\[({<]\s?(?:\.|dot|punkt|point|punto)\s?[\])}>]|\u3002", re.IGNORECASE)
_GAPS = re.compile(r"[\s>]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX = re.compile(r"(?<![A-Za-z0-9])(?:[0-9A-Fa-f]{2}[ :]?){6,}")


def spelled(kind: str, value: str) -> str:
    """Return the one spelling of a value, given folded: two of a kind are the same if these are."""
    if kind in _NUMBERS:
        return "".join(char for char in value.upper() if char.isalnum())
    return _mail(value)[0] if kind == EMAIL else value


def occurrences(text: str, values: Mapping[str, str]) -> list[Finding]:
    """Return where any of the values, each folded and with its kind, stands in a text."""
    if not values:
        return []
    read = readings(text)
    wanted = _Wanted(values)
    places = [found for folded in read for found in wanted.within(folded)]
    for start, end, inside in _encoded(text):
        kind = next((found.kind for folded in readings(inside) for found in wanted.within(folded)), None)
        if kind is not None:
            places.append(Finding(start, end, kind))
    return places


class _Wanted:
    """Values by how they are looked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._compact: dict[str, str] = {}
        self._mails: dict[str, str] = {}
        self._plain: dict[str, str] = {}
        for value, kind in values.items():
            compact = _compact(value)[0]
            if kind == EMAIL:
                self._mails[_mail(value)[0]] = kind
            elif kind in _COMPACT and len(compact) >= _FEWEST:
                self._compact.setdefault(compact, kind)
                if kind == PHONE:
                    digits = compact.lstrip("0")
                    if len(digits) >= _FEWEST:
                        self._compact.setdefault(digits, kind)
                    if len(digits) > _NATIONAL:
                        self._compact.setdefault(digits[-_NATIONAL:], kind)
            else:
                self._plain[_small(value)] = kind

    def within(self, folded: Folded) -> Iterator[Finding]:
        """Yield where they stand in a text."""
        for wanted, spelling in ((self._compact, _compact), (self._mails, _mail)):
            if wanted:
                yield from _found(folded, wanted, spelling)
        small = _small(folded.text)
        for value, kind in self._plain.items():
            for start, end in _each(small, value):
                if not (_joined(small, start) or _joined(small, end)):
                    yield Finding(*folded.original(start, end), kind)


def _found(
    folded: Folded, wanted: Mapping[str, str], spelling: Callable[[str], tuple[str, list[int]]]
) -> Iterator[Finding]:
    text, places = spelling(folded.text)
    for value, kind in wanted.items():
        for start, end in _each(text, value):
            yield Finding(*folded.original(places[start], places[end - 1] + 1), kind)


def _each(text: str, value: str) -> Iterator[tuple[int, int]]:
    start = text.find(value) if value else -1
    while start >= 0:
        yield start, start + len(value)
        start = text.find(value, start + len(value))


def _compact(text: str) -> tuple[str, list[int]]:
    """Return the letters and digits of a folded text, small, and their places."""
    small = _small(text)
    places = [i for i, char in enumerate(small) if char.isalnum()]
    return "".join(small[i] for i in places), places


def _mail(text: str) -> tuple[str, list[int]]:
    """Return a folded text as addresses are read: small, with @ and dots as such, without gaps; and the places."""
    small = _small(text)
    parts: list[str] = []
    places: list[int] = []
    begin = 0
    marks = [*((found, "@") for found in _AT.finditer(small)), *((found, ".") for found in _DOT.finditer(small))]
    marks += [(found, "") for found in _GAPS.finditer(small)]
    for found, meant in sorted(marks, key=lambda mark: mark[0].start()):
        if found.start() < begin:
            continue
        parts += [small[begin : found.start()], meant]
        places += [*range(begin, found.start()), *([found.end() - 1] if meant else [])]
        begin = found.end()
    parts.append(small[begin:])
    places += range(begin, len(small))
    return "".join(parts), places


def _encoded(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield what is, or may be, base64 or hexadecimal: where it stands, and what it says."""
    for found in _BASE64.finditer(text):
        data = found[0].rstrip("=").replace("-", "+").replace("_", "/")
        # Joined to other characters it may begin anywhere.
        for part in (data[shift:] for shift in range(4)):
            with contextlib.suppress(ValueError):
                whole = part[: len(part) // 4 * 4] + _rest(part)
                yield found.start(), found.end(), fold(base64.b64decode(whole).decode("utf-8")).text
    for found in _HEX.finditer(text):
        said = bytes.fromhex(re.sub("[ :]", "", found[0])).decode("utf-8", "ignore")
        yield found.start(), found.end(), fold(said).text


def _rest(part: str) -> str:
    left = part[len(part) // 4 * 4 :]
    return left + "=" * (4 - len(left)) if len(left) > 1 else ""


def _small(text: str) -> str:
    """Return small letters, one for one, so that places stay the same."""
    small = text.lower()
    return small if len(small) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _joined(text: str, place: int) -> bool:
    """Whether the characters on both sides of a place belong to one word or number."""
    around = text[max(0, place - 1) : place + 1]
    return 0 < place < len(text) and around.isascii() and around.isalnum()
