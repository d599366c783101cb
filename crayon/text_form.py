"""One Unicode form for texts that are compared: the same letters are the same text, however they were typed."""

from __future__ import annotations

import unicodedata


def one_form(text: str) -> str:
    """Return the text in the form that Crayon keeps and compares (NFC): an accent is part of its letter."""
    return unicodedata.normalize("NFC", text)


def same_key(text: str) -> str:
    """Return what two texts share that differ only by letter case, Unicode form or spaces around them."""
    # Folding takes letters apart that have no single form in lower case, so it comes between the two forms.
    return one_form(unicodedata.normalize("NFD", text).casefold()).strip()


def every_form(text: str) -> tuple[str, ...]:
    """Return the text as it is and in the forms that others may have written it in, for what is looked for in theirs.

    A text that mixes forms within itself is not among them.
    """
    forms = (text, one_form(text), unicodedata.normalize("NFD", text))
    return tuple(dict.fromkeys(forms))
