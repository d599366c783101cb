"""Payment cards and IBANs in a folded text, told by their check digits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crayon.privacy.finding import CARD, IBAN, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUN = re.compile(r"(?<![0-9])[0-9](?:[\s._/|\u00b7\u2022:+*>#,'\"-]{0,6}[0-9]){12,}")
_GROUP = re.compile(r"[0-9]+")
_SHORTEST, _LONGEST = 14, 19
_FIRST = frozenset("234568")
# First digits of the issuers' ranges, and the lengths of their numbers.
_ISSUERS: tuple[tuple[re.Pattern[str], frozenset[int]], ...] = tuple(
    (re.compile(start), frozenset(lengths))
    for start, lengths in (
        (r"4", (16, 18, 19)),  # Visa
        (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
        (r"3[47]", (15,)),  # American Express
        (r"30[0-5]|3095|3[689]", (14, 16, 19)),  # Diners Club
        (r"6011|64[4-9]|65", (16, 17, 18, 19)),  # Discover
        (r"35(?:2[89]|[3-8])", (16, 17, 18, 19)),  # JCB
        (r"62|81", (16, 17, 18, 19)),  # UnionPay
        (r"50|5[6-8]|60|6[37]", (16, 17, 18, 19)),  # Maestro, RuPay
        (r"220[0-4]", (16, 17, 18, 19)),  # Mir
    )
)

_START = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=iban))[a-z][ ._-]?[a-z][ ._-]{0,3}[0-9][ ._-]?[0-9]|(?<=iban)[a-z]{2}[0-9]{2}",
    re.IGNORECASE,
)
_FEWEST_DIGITS = 8
# Characters of an IBAN by country, as SWIFT's registry lists them.
_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip


def find_cards(text: str) -> Iterator[Finding]:
    """Yield card numbers: an issuer's first digits, its length, Luhn's digit, and groups as people make them."""
    for run in _RUN.finditer(text):
        groups = [(run.start() + group.start(), run.start() + group.end()) for group in _GROUP.finditer(run[0])]
        last = -1
        for i in range(len(groups)):
            if i <= last or text[groups[i][0]] not in _FIRST:
                continue
            found = _card(text, groups, i)
            if found is not None:
                yield Finding(groups[i][0], groups[found][1], CARD)
                last = found


def _card(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """Return the last group of the longest card number that starts with one."""
    digits, gaps, best = "", set[str](), None
    for i in range(first, len(groups)):
        start, end = groups[i]
        if i > first:
            gaps.add(text[groups[i - 1][1] : start])
        digits += text[start:end]
        if len(digits) > _LONGEST:
            break
        if len(digits) >= _SHORTEST and _valid(digits) and _plausible(text, groups[first : i + 1], mixed=len(gaps) > 1):
            best = i
    return best


def _plausible(text: str, groups: list[tuple[int, int]], *, mixed: bool) -> bool:
    """Whether digits are grouped as people group them: decimals, dates and columns of numbers are not."""
    start = groups[0][0]
    if len(groups) == 1:
        return not (start > 1 and text[start - 1] in ".," and text[start - 2].isdigit())
    sizes = [end - begin for begin, end in groups]
    if mixed:  # wrapped, or written without care: as cards are printed, or digit by digit
        return set(sizes[:-1]) <= {4, 8} or tuple(sizes[:2]) == (4, 6) or max(sizes) <= 2
    return min(sizes[:-1]) >= 3 or len(set(sizes[:-1])) == 1


def _valid(digits: str) -> bool:
    if not any(start.match(digits) and len(digits) in sizes for start, sizes in _ISSUERS):
        return False
    from stdnum import luhn  # takes 20 ms, and few texts hold what looks like a number of a kind

    return luhn.is_valid(digits)


def find_ibans(text: str) -> Iterator[Finding]:
    """Yield IBANs: a country's code and length, and check digits that are right."""
    for start in _START.finditer(text):
        country = "".join(char for char in start[0] if char.isalpha())
        length = _LENGTHS.get(country.upper())
        if length is None:
            continue
        value, end = _collect(text, start.start(), length)
        digits = sum(char.isdigit() for char in value)
        if len(value) != length or digits < _FEWEST_DIGITS or text[end : end + 1].isdigit():
            continue
        if _checked(value.upper()):
            yield Finding(start.start(), end, IBAN)


def _checked(value: str) -> bool:
    """Whether an IBAN's check digits are right; not whether its country would give it out: better one too many."""
    from stdnum.iso7064 import mod_97_10

    return mod_97_10.is_valid(value[4:] + value[:4])


def _collect(text: str, start: int, length: int) -> tuple[str, int]:
    """Return the next `length` letters and digits, at most four separators between any two, and where they end."""
    value: list[str] = []
    gap, i = 0, start
    while i < len(text) and len(value) < length:
        char = text[i]
        i += 1
        if char.isascii() and char.isalnum():
            value.append(char)
            gap = 0
        elif char in " \t\n-._/|>*\u00b7" and gap < 4:
            gap += 1
        else:
            break
    return "".join(value), i
