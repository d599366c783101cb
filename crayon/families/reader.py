"""What a model writes, told apart as it is written: thoughts, text, and calls of tools."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from crayon.families.table import is_mark
from crayon.messages import ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.families.call_forms import CallForm
    from crayon.families.table import Family, Thought


class _At(Enum):
    START = "start"
    """Nothing but white space was written."""
    THOUGHT = "thought"
    AFTER = "after"
    """A thought or a call ended, and only white space followed."""
    TEXT = "text"
    CALL = "call"


@dataclass(slots=True)
class Read:
    """What came of some more text."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


class Reader:
    """Reads one answer.

    Args:
        thoughts: what may stand around thoughts.
        family: how tools are called; None: they are not, and nothing is taken for a call.
        names: of the tools.
        thinking: the thought that the prompt has already begun.
    """

    def __init__(
        self,
        thoughts: Sequence[Thought] = (),
        family: Family | None = None,
        names: tuple[str, ...] = (),
        thinking: Thought | None = None,
    ) -> None:
        self._thoughts = tuple(thoughts)
        self._family = family
        self._names = names
        self._thought = thinking
        self._at = _At.START if thinking is None else _At.THOUGHT
        self._held = ""  # may be the beginning of a mark
        self._blank = ""  # white space that is shown only if something follows
        self._form: CallForm | None = None
        self._opened = ""
        self._told = False  # whether something of the running thought was told
        self.called = False
        """Whether a tool was called."""

    @property
    def undecided(self) -> bool:
        """Whether it cannot be told yet whether what was written last is thought or answer."""
        return self._at is _At.START

    @property
    def thinking(self) -> bool:
        """Whether what was written last is a thought."""
        return self._at is _At.THOUGHT

    def push(self, text: str) -> Read:
        """Take more of what the model wrote."""
        made = Read()
        self._held += text
        while self._held and self._step(made):
            pass
        return made

    def finish(self) -> Read:
        """Take in that nothing follows."""
        made = Read()
        rest, self._held = self._held, ""
        if self._at is _At.CALL and self._form is not None:
            form, self._form = self._form, None
            form.end()
            if form.calls or not self.called:  # what was cut behind other calls is of no use
                self._close_call(form, made)
        elif self._at is _At.THOUGHT:
            made.reasoning += self._unblanked(rest)
        else:
            made.text += self._unblanked(rest)
        return made

    # -- one step; returns whether there is more to do

    def _step(self, made: Read) -> bool:
        match self._at:
            case _At.THOUGHT:
                return self._think(made)
            case _At.CALL:
                return self._call(made)
            case _:
                return self._say(made)

    def _think(self, made: Read) -> bool:
        thought = self._thought
        if thought is None:
            return False
        if not self._told:
            self._held = self._held.lstrip()
        before, found, behind = self._held.partition(thought.close)
        if found:
            made.reasoning += self._whole(before).rstrip() if before.strip() else ""
            self._blank, self._held, self._told = "", behind, False
            self._at, self._thought = _At.AFTER, None
            return True
        keep = _overlap(before, (thought.close,))
        said = self._whole(before[: len(before) - keep])
        body = said.rstrip()
        self._blank, self._held = said[len(body) :], before[len(before) - keep :]
        made.reasoning += body
        self._told = self._told or bool(body)
        return False

    def _say(self, made: Read) -> bool:
        text = self._held
        begins = self._at in {_At.START, _At.AFTER}
        if begins:
            lead = text[: len(text) - len(text.lstrip())]
            if len(lead) == len(text):
                self._blank += text
                self._held = ""
                return False
            if self._at is _At.START and (opened := self._first(text[len(lead) :])):
                self._blank, self._held = "", text[len(lead) + len(opened.open) :]
                self._thought, self._at, self._told = opened, _At.THOUGHT, False
                return True
            if bare := self._bare(text[len(lead) :]):
                self._blank += lead
                self._open(bare, text[len(lead) :] if bare in "{[" else text[len(lead) + len(bare) :])
                return True
            if self._may_begin(text[len(lead) :]):
                return False
        marks = self._marks()
        found = min(((text.find(m), m) for m in marks if m in text), default=(-1, ""))
        if found[1]:
            self._tell(made, text[: found[0]])
            self._open(found[1], text[found[0] + len(found[1]) :])
            return True
        keep = _overlap(text, marks)
        self._tell(made, text[: len(text) - keep])
        self._held = text[len(text) - keep :]
        return False

    def _tell(self, made: Read, text: str) -> None:
        """Say text; white space behind it only where more follows, if tools may be called."""
        if not text:
            return
        if self._at is _At.AFTER:
            text = text.lstrip()
            self._blank = ""
        said = self._whole(text)
        body = said.rstrip() if self._family is not None else said
        self._blank = said[len(body) :]
        made.text += body
        if body:
            self._at = _At.TEXT

    def _call(self, made: Read) -> bool:
        form = self._form
        if form is None:
            return False
        rest = form.feed(self._held)
        self._held = ""
        if rest is None:
            return False
        self._form = None
        self._held = rest
        self._close_call(form, made)
        return True

    def _open(self, opened: str, rest: str) -> None:
        if self._family is None:
            return
        self._opened = "" if opened in "{[" else opened
        self._form = self._family.form(opened, self._names)
        self._at, self._held = _At.CALL, rest

    def _close_call(self, form: CallForm, made: Read) -> None:
        """Tell the calls that were read, or what was none as text."""
        if form.calls:
            made.calls += tuple(ToolCall(new_id(), name, arguments) for name, arguments in form.calls)
            self.called = True
            self._blank, self._at = "", _At.AFTER
        else:
            made.text += self._unblanked(self._opened + form.text)
            self._at, self._held = _At.TEXT, ""

    # -- marks

    def _marks(self) -> tuple[str, ...]:
        return tuple(m for m in self._family.opens if is_mark(m)) if self._family else ()

    def _first(self, text: str) -> Thought | None:
        return next((each for each in self._thoughts if text.startswith(each.open)), None)

    def _bare(self, text: str) -> str:
        opens = self._family.opens if self._family else ()
        return next((m for m in opens if not is_mark(m) and text.startswith(m)), "")

    def _may_begin(self, text: str) -> bool:
        """Whether text may be the beginning of a mark that only the beginning of an answer can hold."""
        opens = [m for m in self._family.opens if not is_mark(m)] if self._family else []
        if self._at is _At.START:
            opens += [each.open for each in self._thoughts]
        return any(mark.startswith(text) and mark != text for mark in opens)

    def _whole(self, text: str) -> str:
        blank, self._blank = self._blank, ""
        return blank + text

    def _unblanked(self, rest: str) -> str:
        """Return the last of a text, whose white space at the end is text where no call follows."""
        return self._whole(rest) if self._at is not _At.AFTER or rest.strip() else ""


def new_id() -> str:
    """Return the id of a call: in OpenAI's form, since clients know it."""
    return f"call_{uuid.uuid4().hex[:24]}"


def _overlap(text: str, marks: Sequence[str]) -> int:
    """Return how many characters at the end of a text may be the beginning of a mark."""
    longest = min(max((len(mark) - 1 for mark in marks), default=0), len(text))
    for size in range(longest, 0, -1):
        if any(mark.startswith(text[len(text) - size :]) for mark in marks):
            return size
    return 0
