"""An answer that fits, made without a model: for engines that have none."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from crayon.constraints.vocabulary import Constraining
from crayon.errors import EngineError

if TYPE_CHECKING:
    from crayon.constraint import Constraint

_END = 256
_QUOTE, _LETTER = b'"a'
_CLOSING = b"}],0"
_TEXT = b"ax05 @.-:"
"""Bytes that what is asked of texts (dates, addresses) is made of."""


class Instances:
    """Writes the shortest answer that it finds, byte by byte; the same for the same constraint."""

    def __init__(self) -> None:
        self._constraining = Constraining(_Bytes())

    def of(self, constraint: Constraint, most: int) -> tuple[str, bool]:
        """Return an answer of at most `most` bytes, whole characters, and whether it is complete.

        Raises:
            InvalidRequestError: the constraint cannot be kept.
        """
        matcher = self._constraining.matcher(constraint)
        written = bytearray()
        try:
            while not (matcher.done or matcher.accepts) and len(written) < most:
                forced = matcher.forced()
                tokens = forced or [_next(matcher.mask()[:_END].nonzero()[0].tolist(), bytes(written))]
                matcher.take(tokens)
                written += bytes(tokens)
        except EngineError:  # it leads nowhere
            return written.decode(errors="ignore"), False
        whole = (matcher.done or matcher.accepts) and len(written) <= most
        return bytes(written[:most]).decode(errors="ignore"), whole


def _next(allowed: list[int], written: bytes) -> int:
    """Return the byte that ends soonest what was begun, as far as that can be told from one byte."""
    if _QUOTE in allowed:
        return _QUOTE
    if _LETTER not in allowed:  # between texts
        for byte in _CLOSING:
            if byte in allowed:
                return byte
    chance = zlib.crc32(written)
    some = [byte for byte in _TEXT if byte in allowed and chance % 4] or allowed
    return some[(chance >> 8) % len(some)]


class _Bytes:
    """A vocabulary of 256 bytes and an end."""

    n_vocab = _END + 1

    def pieces(self) -> list[bytes]:
        return [*(bytes([byte]) for byte in range(_END)), b""]

    def ends(self) -> list[int]:
        return [_END]

    def controls(self) -> dict[int, bytes]:
        return {_END: b"<end>"}

    def tokenize_more(self, text: str) -> list[int]:
        return list(text.encode())
