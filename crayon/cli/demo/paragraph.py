"""Text that arrives in pieces and is shown as an indented paragraph, wrapped at words."""

from __future__ import annotations

import shutil
import sys

from crayon.cli.shared import console

MAX_WIDTH = 100


class Paragraph:
    """Writes to standard output as it goes; lines are wrapped only where that is a terminal.

    Args:
        indent: stands before each line.
        width: characters of a line (None: those of the terminal, as far as they are good to read).
    """

    def __init__(self, indent: str, width: int | None = None) -> None:
        self._indent = indent
        wanted = width or min(MAX_WIDTH, shutil.get_terminal_size().columns)
        self._width = wanted if sys.stdout.isatty() else None
        self._column = 0  # 0: nothing on this line yet
        self._space = self._word = ""

    def write(self, text: str) -> None:
        """Show some more; at a terminal, the last word waits until it is known to be whole."""
        if self._width is None and not self._indent:
            if text:
                console.answer(text)
                self._column = 0 if text.endswith("\n") else 1
            return
        for character in text:
            if character == "\n":
                self._flush()
                console.answer("\n")
                self._column, self._space = 0, ""
            elif character in " \t":
                self._flush()
                self._space += character
            else:
                self._word += character

    def end(self) -> None:
        """Show what waits and end the line."""
        self._flush()
        if self._column:
            console.answer("\n")
        self._column, self._space = 0, ""

    def _flush(self) -> None:
        if not self._word:
            return
        length = len(self._space) + len(self._word)
        if self._width is not None and self._column and self._column + length > self._width:
            console.answer("\n")
            self._column, self._space = 0, ""
        lead = self._space if self._column else self._indent + self._space
        console.answer(lead + self._word)
        self._column += len(lead) + len(self._word)
        self._space = self._word = ""
