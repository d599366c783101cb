"""The forms in which models write calls, each read bit by bit as it is written."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import Any

_OPEN, _CLOSE = "{[", "}]"
_MOST = 2**20  # characters of one call; what is longer is text


class CallForm(ABC):
    """Reads the calls behind one opening mark.

    `feed` takes text until it returns what is left over; then `calls` are complete, or `None` where it was no call.
    """

    def __init__(self) -> None:
        self.text = ""
        """All that was taken so far, for the case that it is no call."""
        self.calls: list[tuple[str, str]] | None = None
        """Name and arguments of each; None before the end, or where there are none."""

    def feed(self, text: str) -> str | None:
        """Take text; return what is left over once the end was found, which may be "". None: more is needed."""
        self.text += text
        if len(self.text) > _MOST:
            return ""
        return self._read()

    @abstractmethod
    def _read(self) -> str | None: ...

    def end(self) -> None:
        """Take in that nothing follows."""
        return


class Brackets:
    """Finds the end of a JSON object or list, without going through any part of it twice."""

    def __init__(self) -> None:
        self._at = self._depth = 0
        self._quoted = self._escaped = False

    def end(self, text: str, start: int) -> int:
        """Return where it ends, given a text that has only grown since the last call; -1: not yet, -2: it is none."""
        at = max(self._at, start)
        while at < len(text):
            letter = text[at]
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif letter == "\\":
                    self._escaped = True
                elif letter == '"':
                    self._quoted = False
            elif letter == '"':
                self._quoted = True
            elif letter in _OPEN:
                self._depth += 1
            elif letter in _CLOSE:
                self._depth -= 1
            if self._depth <= 0:
                return at + 1 if letter in _CLOSE and self._depth == 0 else -2
            at += 1
        self._at = at
        return -1


class JsonCalls(CallForm):
    """One JSON object, or a list of them, between two marks, the second of which may be missing.

    Args:
        close: the second mark; "" for none.
        separator: what may stand between this and another object.
        names: of the tools; an object of another name is no call. () takes all.
    """

    def __init__(self, close: str = "", separator: str = "", names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._close = close
        self._separator = separator
        self._names = names
        self._brackets = Brackets()
        self._start = 0  # of the next object
        self._found: list[tuple[str, str]] = []
        self._behind = -1  # where what follows the last object begins; -1 within one

    def _read(self) -> str | None:
        while True:
            if self._behind < 0:
                self._start += _blank(self.text, self._start)
                if self._start >= len(self.text):
                    return None
                stop = self._brackets.end(self.text, self._start)
                if stop == -1:
                    return None
                made = calls_of(self.text[self._start : stop], self._names) if stop > 0 else None
                if made is None:
                    return self._over()
                self._found += made
                self._behind = stop
                self._brackets = Brackets()
            if not self._goes_on():
                return self._after()

    def _goes_on(self) -> bool:
        """Whether another object follows the last one."""
        at = self._behind + _blank(self.text, self._behind)
        if not self._separator or not self.text.startswith(self._separator, at):
            return False
        self._start, self._behind = at + len(self._separator), -1
        return True

    def _after(self) -> str | None:
        """Look behind the last object: what is left, or None where that cannot be told yet."""
        at = self._behind + _blank(self.text, self._behind)
        rest = self.text[at:]
        if self._close and rest.startswith(self._close):
            self.calls = self._found
            return rest[len(self._close) :]
        if any(mark and mark.startswith(rest) for mark in (self._close, self._separator)):
            return None
        self.calls = self._found  # no closing mark: the object says by itself where it ends
        return self.text[self._behind :]

    def _over(self) -> str:
        """Give up: what was read is no call."""
        if self._found:
            self.calls = self._found
            return self.text[self._behind if self._behind >= 0 else self._start :]
        return ""

    def end(self) -> None:
        """Take in that nothing follows: complete objects are calls without a closing mark, too."""
        if self._found:
            self.calls = self._found


def calls_of(text: str, names: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Return name and arguments of the calls that a JSON text holds; None where it holds something else."""
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None
    found = [_call(item, names) for item in (value if isinstance(value, list) else [value])]
    made = [call for call in found if call is not None]
    return made if made and len(made) == len(found) else None


def _call(item: Any, names: tuple[str, ...]) -> tuple[str, str] | None:
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = item["function"]
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    given = item.get("arguments", item.get("parameters", {}))
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return None
    if not isinstance(given, dict) or (names and item["name"] not in names):
        return None
    return item["name"], json.dumps(given, ensure_ascii=False)


class GemmaCalls(CallForm):
    """Gemma 4's `call:NAME{key:<|"|>text<|"|>,other:1}`, up to its closing mark."""

    QUOTE = '<|"|>'

    def __init__(self, close: str) -> None:
        super().__init__()
        self._close = close

    def _read(self) -> str | None:
        # The closing mark within a text is none: of the pieces between quotes, every other one is a text.
        at = 0
        while True:
            end, quote = self.text.find(self._close, at), self.text.find(self.QUOTE, at)
            if end < 0 and quote < 0:
                return None
            if end >= 0 and (quote < 0 or end < quote):
                break
            shut = self.text.find(self.QUOTE, quote + len(self.QUOTE))
            if shut < 0:
                return None
            at = shut + len(self.QUOTE)
        made = self._made(self.text[:end])
        if made is None:
            return ""
        self.calls = [made]
        return self.text[end + len(self._close) :]

    def end(self) -> None:
        """Take in that nothing follows: a complete call needs no closing mark."""
        if made := self._made(self.text):
            self.calls = [made]

    def _made(self, text: str) -> tuple[str, str] | None:
        found = re.fullmatch(r"\s*call:([^{\s]+)\s*(\{.*\})\s*", text, re.DOTALL)
        if not found:
            return None
        try:
            value, rest = _Notation(found[2]).value(0)
        except (ValueError, RecursionError):
            return None
        if rest != len(found[2]) or not isinstance(value, dict):
            return None
        return found[1], json.dumps(value, ensure_ascii=False)


class _Notation:
    """Gemma 4's objects: JSON whose names are bare and whose texts stand between `<|"|>`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, at: int) -> tuple[Any, int]:
        text, quote = self._text, GemmaCalls.QUOTE
        at += _blank(text, at)
        if text.startswith(quote, at):
            end = text.index(quote, at + len(quote))
            return text[at + len(quote) : end], end + len(quote)
        if text.startswith('"', at):
            return json.JSONDecoder().raw_decode(text, at)
        if text.startswith("{", at):
            return self._items(at, "}")
        if text.startswith("[", at):
            return self._items(at, "]")
        found = re.compile(r"[^,}\]\s]+").match(text, at)
        if not found:
            raise ValueError("no value")
        return json.loads(found[0], parse_constant=_refuse), found.end()

    def _items(self, at: int, close: str) -> tuple[Any, int]:
        text = self._text
        pairs: dict[str, Any] = {}
        items: list[Any] = []
        at += 1
        at += _blank(text, at)
        while not text.startswith(close, at):
            if close == "}":
                key, at = self._key(at)
                pairs[key], at = self.value(at)
            else:
                item, at = self.value(at)
                items.append(item)
            at += _blank(text, at)
            if text.startswith(",", at):
                at += 1
                at += _blank(text, at)
            elif not text.startswith(close, at):
                raise ValueError("no end")
        return (pairs if close == "}" else items), at + 1

    def _key(self, at: int) -> tuple[str, int]:
        text, quote = self._text, GemmaCalls.QUOTE
        if text.startswith(quote, at) or text.startswith('"', at):
            key, at = self.value(at)
        else:
            end = text.index(":", at)
            key, at = text[at:end].strip(), end
        at += _blank(text, at)
        if not text.startswith(":", at):
            raise ValueError("no name")
        return key, at + 1


def _blank(text: str, start: int) -> int:
    """Return how many characters from `start` on are white space."""
    end = start
    while end < len(text) and text[end].isspace():
        end += 1
    return end - start


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice")
    return made


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
