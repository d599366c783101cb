"""Placeholders for what was found: put in before a text is sent, and taken out of what comes back."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.privacy import values
from crayon.privacy.finding import Finding, join
from crayon.privacy.folding import readings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Each value is looked for in each text, so that one found in one place is not sent from another.
MAX_VALUES = 1_000


@dataclass(frozen=True, slots=True)
class Redaction:
    """Texts with placeholders in them, and what each placeholder stands for."""

    texts: tuple[str, ...]
    originals: dict[str, str] = field(repr=False)


def redact(texts: Sequence[str], findings: Sequence[Iterable[Finding]]) -> Redaction | None:
    """Return the texts with each finding replaced: the same value gets the same placeholder everywhere.

    A value that was found in one text is replaced in all of them, wherever and however it is written (`values`).

    Args:
        texts: the texts as they are.
        findings: for each of them what was found in it.

    Returns:
        The redaction, or None if there are too many different values.
    """
    wanted: dict[str, str] = {}
    for text, own in zip(texts, findings, strict=True):
        for found in own:
            wanted.setdefault(readings(text[found.start : found.end])[-1].text, found.kind)
    if len(wanted) > MAX_VALUES:
        return None
    spread = [join([*own, *values.occurrences(text, wanted)]) for text, own in zip(texts, findings, strict=True)]
    names = _Names(texts)
    return Redaction(tuple(names.replace(text, own) for text, own in zip(texts, spread, strict=True)), names.originals)


class Restorer:
    """Puts the originals back into a text that comes in pieces, also where a placeholder is split over them."""

    def __init__(self, originals: Mapping[str, str]) -> None:
        self._originals = {name.lower(): original for name, original in originals.items()}
        names = sorted(map(re.escape, self._originals), key=len, reverse=True)
        self._pattern = re.compile("|".join(names) or r"(?!)", re.IGNORECASE)
        self._held = ""

    def push(self, text: str) -> str:
        """Return what can be shown now; the start of what may become a placeholder waits."""
        text = self._held + text
        opened = text.rfind("[")
        cut = opened if opened >= 0 and self._may_grow(text[opened:]) else len(text)
        self._held = text[cut:]
        return self._restored(text[:cut])

    def finish(self) -> str:
        """Return what is left."""
        left, self._held = self._held, ""
        return left

    def _may_grow(self, tail: str) -> bool:
        start = tail.lower()
        return any(name.startswith(start) and name != start for name in self._originals)

    def _restored(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._originals[found[0].lower()], text)


def restored_json(text: str, originals: Mapping[str, str]) -> str:
    """Return a JSON text with the originals put back into the texts within; one that is no JSON as any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _whole(text, originals)
    return json.dumps(_within(value, originals), ensure_ascii=False)


def _whole(text: str, originals: Mapping[str, str]) -> str:
    restorer = Restorer(originals)
    return restorer.push(text) + restorer.finish()


def _within(value: object, originals: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return _whole(value, originals)
    if isinstance(value, list):
        return [_within(item, originals) for item in value]
    if isinstance(value, dict):
        return {_whole(key, originals): _within(item, originals) for key, item in value.items()}
    return value


class _Names:
    """Hands out placeholders, none of which stands in the texts already."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._taken = "\n".join(texts).lower()
        self._names: dict[tuple[str, str], str] = {}
        self._numbers: Counter[str] = Counter()
        self.originals: dict[str, str] = {}

    def replace(self, text: str, findings: Iterable[Finding]) -> str:
        parts, place = [], 0
        for found in findings:
            parts += [text[place : found.start], self._name(found.kind, text[found.start : found.end])]
            place = found.end
        return "".join([*parts, text[place:]])

    def _name(self, kind: str, original: str) -> str:
        key = (kind, _key(kind, original))
        if key not in self._names:
            label = re.sub(r"\W", "_", kind, flags=re.ASCII).upper()
            name = ""
            while not name or name.lower() in self._taken:
                self._numbers[label] += 1
                name = f"[{label}_{self._numbers[label]}]"
            self._names[key] = name
            self.originals[name] = original
        return self._names[key]


def _key(kind: str, original: str) -> str:
    return values.spelled(kind, readings(original)[-1].text)
