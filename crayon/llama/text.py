"""From a model's token bytes to text that a caller may see: whole characters, nothing of a stop string."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from crayon.text_form import every_form

if TYPE_CHECKING:
    from collections.abc import Sequence


class TextAssembler:
    """Feeds on token bytes; gives out text as soon as it is certain.

    Stop strings are found however their accents are written. Text that may be the start of one is held back until the
    next bytes decide. Bytes that are not valid UTF-8 become U+FFFD; an unfinished character at the very end is dropped.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(form for text in stop for form in every_form(text))
        self._longest = max((len(text) for text in self._stop), default=0)
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Take a token's bytes; return the text that is now certain. After a stop string, always ""."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(piece)
        if not self._stop:
            return text
        # The stop that is complete first ends the answer, the longer of two that end together: so however the text is
        # cut into pieces, the same of it comes out.
        hits = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if hits:
            self.stopped, self._held = True, ""
            return text[: min(hits)[1]]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return what was held back, once no more bytes come."""
        text, self._held = self._held, ""
        return text

    def _undecided(self, text: str) -> int:
        """Return the length of the longest end of `text` that starts a stop string."""
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-n:]
            if any(stop.startswith(tail) for stop in self._stop):
                return n
        return 0
