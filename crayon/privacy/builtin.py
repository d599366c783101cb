"""The detector that Crayon comes with: six kinds, told by shape and check digits, with no list of names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError
from crayon.privacy.contacts import find_emails, find_phones
from crayon.privacy.finding import CARD, EMAIL, IBAN, KINDS, NATIONAL_ID, PHONE, SECRET, Finding
from crayon.privacy.folding import readings
from crayon.privacy.identities import find_national_ids
from crayon.privacy.keys import find_secrets
from crayon.privacy.payment_numbers import find_cards, find_ibans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_FINDERS: dict[str, Callable[[str], Iterator[Finding]]] = {
    EMAIL: find_emails,
    PHONE: find_phones,
    CARD: find_cards,
    IBAN: find_ibans,
    NATIONAL_ID: find_national_ids,
    SECRET: find_secrets,
}


class BuiltInDetector:
    """Finds the given kinds, in time proportional to the text's length.

    Raises:
        InvalidRequestError: a kind is unknown.
    """

    name = "built-in"

    def __init__(self, kinds: Iterable[str] = KINDS) -> None:
        self._kinds = tuple(kinds)
        for kind in self._kinds:
            if kind not in KINDS:
                raise InvalidRequestError("privacy.detect", f"knows {', '.join(KINDS)}, not {kind!r}")

    def find(self, text: str) -> list[Finding]:
        """Return what is found, in places of the original text."""
        return [
            Finding(*folded.original(found.start, found.end), kind)
            for folded in readings(text)
            for kind in self._kinds
            for found in _FINDERS[kind](folded.text)
        ]
