"""What escapes stand for: a text as whoever decodes it reads it, and the way back to its original."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

# Percent-encoding, entities of HTML, escapes of JSON and program text, and quoted-printable.
_ESCAPE = re.compile(
    r"(?:%[0-9A-Fa-f]{2})+|&#[0-9]{1,7};|&#x[0-9A-Fa-f]{1,6};|&[A-Za-z]{2,10};|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}"
    r"|\\[nrt/\"'@.-]|=\r?\n|(?:=[0-9A-F]{2})+"
)
_SIMPLE = {"n": "\n", "r": "\n", "t": "\t"}
# An escape may be escaped once more, as in %2540.
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded text; `starts` and `ends` say for each of its characters which part of the original it stands for."""

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]


def decode(text: str) -> Decoded | None:
    """Return `text` with its escapes decoded, in linear time; None if it has none."""
    found: Decoded | None = None
    for _ in range(_ROUNDS):
        nearer = _once(text if found is None else found.text)
        if nearer is None:
            break
        if found is not None:
            starts = tuple(found.starts[i] for i in nearer.starts)
            nearer = Decoded(nearer.text, starts, tuple(found.ends[i - 1] for i in nearer.ends))
        found = nearer
    return found


def _once(text: str) -> Decoded | None:
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    place = 0
    for escape in _ESCAPE.finditer(text):
        meant = _meaning(escape[0])
        if meant == escape[0]:
            continue
        parts += [text[place : escape.start()], meant]
        starts += [*range(place, escape.start()), *[escape.start()] * len(meant)]
        ends += [*range(place + 1, escape.start() + 1), *[escape.end()] * len(meant)]
        place = escape.end()
    if not place:
        return None
    parts.append(text[place:])
    starts += range(place, len(text))
    ends += range(place + 1, len(text) + 1)
    return Decoded("".join(parts), tuple(starts), tuple(ends))


def _meaning(escape: str) -> str:
    if escape[0] == "%":
        return bytes.fromhex(escape.replace("%", "")).decode("utf-8", "replace")
    if escape[0] == "=":
        return "" if escape[1] in "\r\n" else bytes.fromhex(escape.replace("=", "")).decode("utf-8", "replace")
    if escape[0] == "&":
        return html.unescape(escape)
    if escape[1] in "ux":
        return chr(int(f"0{escape[1:]}".replace("u", "x"), 0))
    return _SIMPLE.get(escape[1], escape[1])
