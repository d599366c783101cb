"""The tokens that a server takes: read, looked up in constant time, and read again."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from typing import TYPE_CHECKING

from crayon.errors import ConfigError
from crayon.wire.tokens import Secret, check_token, read_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_TOKENS = 10_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class TokenSet:
    """Names by token. Only hashes of the tokens are kept.

    One name may have several tokens: that is how a client changes its own without a gap.

    Raises:
        ConfigError: one token has two names.
    """

    def __init__(self, tokens: Iterable[tuple[str, Secret]], key: str) -> None:
        self._names: dict[bytes, str] = {}
        for name, token in tokens:
            digest = _digest(token.reveal())
            if self._names.setdefault(digest, name) != name:
                raise ConfigError(key, f"{self._names[digest]} and {name} have the same token")

    def __len__(self) -> int:
        """How many tokens are taken."""
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """Whose tokens are taken."""
        return tuple(dict.fromkeys(self._names.values()))

    def find(self, token: str) -> str | None:
        """Return whose token this is, None for nobody's. The time it takes says nothing about any token."""
        presented, found = _digest(token), None
        for digest, name in self._names.items():
            if hmac.compare_digest(digest, presented):
                found = name
        return found


class TokenStore:
    """The tokens of a file and those that were given, of which the file's may change.

    Args:
        file: one `name:token` or token a line; `#` begins a comment.
        given: `name:token` or token each.

    Raises:
        ConfigError: a line is malformed (the message has its number, not its text), every user may read the file, or
            there is no token at all.
    """

    def __init__(self, file: Path | None, given: Iterable[Secret] = ()) -> None:
        self._file = file
        self._given = tuple(given)
        self.current = self._load()

    def reload(self) -> bool:
        """Read the file again and return True; where it cannot be used, log why, and keep the tokens as they were."""
        try:
            self.current = self._load()
        except ConfigError as error:
            log.error("the tokens stay as they were: %s", error)
            return False
        log.info("%d tokens are taken, of %s", len(self.current), ", ".join(self.current.names))
        return True

    def _load(self) -> TokenSet:
        tokens = list(_parsed(((f"token-{n}", text.reveal()) for n, text in enumerate(self._given, 1)), "serve.tokens"))
        if self._file is not None:
            found = list(_lines(read_private(self._file, "tokens_file"), self._file))
            if not found:
                raise ConfigError("tokens_file", f"{self._file} holds no token")
            tokens += found
        if len(tokens) > MAX_TOKENS:
            raise ConfigError("tokens_file", f"more than {MAX_TOKENS} tokens; use client certificates for so many")
        return TokenSet(tokens, "tokens_file")


def _lines(data: bytes, path: Path) -> Iterator[tuple[str, Secret]]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigError("tokens_file", f"{path} is no text") from None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield from _parsed([(f"line-{number}", text)], f"tokens_file, line {number}")


def _parsed(texts: Iterable[tuple[str, str]], key: str) -> Iterator[tuple[str, Secret]]:
    for unnamed, text in texts:
        name, colon, token = text.partition(":")
        if not colon:
            name, token = unnamed, text
        if not _NAME.fullmatch(name.strip()):
            raise ConfigError(key, "the name before the colon must be 1 to 64 letters, digits or ._-")
        yield name.strip(), check_token(token.strip(), key)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
