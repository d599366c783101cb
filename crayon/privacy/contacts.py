"""E-mail addresses and phone numbers in a folded text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crayon.privacy.finding import EMAIL, PHONE, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

# Every repeat is bounded or cannot be entered twice at one place, here and in the rooms' other patterns: reading a text
# takes time in proportion to its length, whatever it holds.
_AT = r"(?:@| ?[\[({] ?(?:@|at) ?[\])}] ?)"
_DOT = r"(?:\.| ?[\[({] ?(?:\.|dot) ?[\])}] ?)"
_TOP = r"(?:xn--[a-z0-9-]{2,59}|[a-z]{2,24}|[^\W\d_]{2,24})"
_DOMAIN = re.compile(rf"{_AT}(?:[\w-]{{1,63}}{_DOT}){{1,8}}{_TOP}", re.IGNORECASE)
_LOCAL = re.compile(r"[A-Za-z\u00c0-\u024f0-9._%+'&*=/?^{}|~!#$-]{1,64}\Z")
_LOCAL_ANY = re.compile(r"[\w.%+'-]{1,64}\Z")
# Pictures for dense screens, and how git spells a repository.
_NO_MAIL = re.compile(r"@[23]x\.(?:png|jpe?g|gif|webp|svg)\Z", re.IGNORECASE)

_REST = r"(?:[ ().\-/]{0,3}[0-9])"
_PHONES = (
    # +49 30 1234567, +1 (415) 555-2671
    re.compile(rf"(?<![\w+])\+ ?[1-9]{_REST}{{6,14}}(?![0-9])"),
    # 0049 30 1234567
    re.compile(rf"(?<![\w.,+/:-])00[1-9]{_REST}{{8,13}}(?![\w])"),
    # (415) 555-2671, 415.555.2671, 1-415-555-2671
    re.compile(r"(?<![\w.,+/:-])(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?!\w)"),
    # 030 1234567, (0171) 123 45 67, 06 12 34 56 78; a date is none
    re.compile(
        r"(?<![\w.,+/:-])(?![0-9]{1,2}[./-][0-9]{1,2}[./-](?:[0-9]{4}|[0-9]{2})(?![./-]?[0-9]))"
        r"\(?0[1-9][0-9]{0,4}\)?(?:[ ./-]{1,3}[0-9]{2,8}){1,5}(?!\w)"
    ),
    # 0612345678
    re.compile(r"(?<![\w.,+/:-])0[1-9][0-9]{8,9}(?![\w])"),
)
_CALLED = re.compile(
    r"\b(?:tel|tél|phone|telephone|telefon|telefono|teléfono|téléphone|mobile|mob|cell|handy|fax|portable|whatsapp|sms"
    r"|call (?:me|us|her|him)(?: at| on)?)\b"
    rf"[^0-9+\n]{{0,20}}(\+?[0-9]{_REST}{{6,14}})(?![0-9])",
    re.IGNORECASE,
)
_FEWEST, _MOST = 9, 15
_COUNTING = frozenset({"01234567890", "0123456789"})


def find_emails(text: str) -> Iterator[Finding]:
    """Yield e-mail addresses, those written with (at) and [dot] too."""
    for found in _DOMAIN.finditer(text):
        before = text[max(0, found.start() - 64) : found.start()]
        local = _LOCAL.search(before) or _LOCAL_ANY.search(before)
        if local is None or _NO_MAIL.match(found[0]):
            continue
        if local[0] == "git" and text[found.end() : found.end() + 1] in {":", "/"}:
            continue
        yield Finding(found.start() - len(local[0]), found.end(), EMAIL)


def find_phones(text: str) -> Iterator[Finding]:
    """Yield phone numbers: with a country code, in the usual national spellings, or after a word such as "phone"."""
    for i, pattern in enumerate(_PHONES):
        for found in pattern.finditer(text):
            digits = "".join(char for char in found[0] if char.isdigit())
            if (i == 0 or _FEWEST <= len(digits) <= _MOST) and digits not in _COUNTING:
                yield Finding(found.start(), found.end(), PHONE)
    for found in _CALLED.finditer(text):
        yield Finding(found.start(1), found.end(1), PHONE)
