"""Patterns of the user's own, run with a limit on their time: a search that takes longer counts as found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError
from crayon.privacy.finding import KINDS, Finding
from crayon.privacy.folding import fold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regex import Pattern

SECONDS = 0.05
MAX_PATTERNS, MAX_CHARS, MAX_MATCHES = 100, 2_000, 10_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class PatternDetector:
    """Finds what one pattern of the package `regex` matches, in the text as it is and as `fold` spells it.

    `find` raises TimeoutError when the pattern takes longer than `seconds` on one text.

    Raises:
        InvalidRequestError: the name or the pattern cannot be used; the field names it.
    """

    def __init__(self, name: str, pattern: str, seconds: float = SECONDS) -> None:
        self.name = name
        self._pattern = compile_pattern(name, pattern)
        self._seconds = seconds

    def find(self, text: str) -> list[Finding]:
        """Return the matches that are not empty.

        Raises:
            TimeoutError: it took too long, or matched too often.
        """
        folded = fold(text)
        found = [Finding(*folded.original(start, end), self.name) for start, end in self._matches(folded.text)]
        if folded.text != text:
            found += [Finding(start, end, self.name) for start, end in self._matches(text)]
        return found

    def _matches(self, text: str) -> list[tuple[int, int]]:
        places = []
        for match in self._pattern.finditer(text, timeout=self._seconds):
            start, end = match.span()
            if end > start:
                places.append((start, end))
            if len(places) > MAX_MATCHES:
                raise TimeoutError("the pattern matches too often")
        return places


def compile_pattern(name: object, pattern: object) -> Pattern[str]:
    """Return the compiled pattern.

    Raises:
        InvalidRequestError: the name or the pattern cannot be used; the field names it.
    """
    import regex

    field = f"privacy.patterns.{name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequestError(field, "a name has 1 to 40 of a-z, 0-9 and _, and starts with a letter")
    if name in KINDS:
        raise InvalidRequestError(field, "is a kind that comes with Crayon; choose another name")
    if not isinstance(pattern, str) or not 1 <= len(pattern) <= MAX_CHARS:
        raise InvalidRequestError(field, f"must be a regular expression of 1 to {MAX_CHARS} characters")
    try:
        return regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequestError(field, f"is no regular expression: {error}") from None


def pattern_detectors(patterns: Mapping[str, str]) -> list[PatternDetector]:
    """Return one detector a pattern.

    Raises:
        InvalidRequestError: there are too many, or one cannot be used.
    """
    if len(patterns) > MAX_PATTERNS:
        raise InvalidRequestError("privacy.patterns", f"has {len(patterns)} patterns; at most {MAX_PATTERNS} are run")
    return [PatternDetector(name, pattern) for name, pattern in patterns.items()]
