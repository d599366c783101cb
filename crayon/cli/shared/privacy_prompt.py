"""Asks at a terminal what is to be done with a query in which something sensitive was found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crayon.cli.shared import console
from crayon.cli.shared.report import kind_words
from crayon.cli.shared.sign_of_life import hide_signs
from crayon.cli.shared.typing_ahead import asked_now

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANSWERS = {"": "keep", "k": "keep", "r": "redact", "s": "send"}


def ask_user(found: Mapping[str, int]) -> str:
    """Return "keep", "redact" or "send"; "keep" where nobody can be asked, or for any other answer."""
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "keep"
    words = ", ".join(f"{kind_words(kind)} ({count})" for kind, count in found.items())
    hide_signs()
    console.message(f"found: {words}")
    console.message("[K]eep on the device, [r]edact and allow the server, or [s]end as it is?")
    with asked_now():
        answer = sys.stdin.readline().strip().lower()
    return _ANSWERS.get(answer[:1], "keep")
