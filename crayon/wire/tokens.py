"""Bearer tokens as both ends see them: their form, their metadata, and files that only their owner may read."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

AUTHORIZATION = "authorization"
SCHEME = "bearer"
MIN_TOKEN_CHARS, MAX_TOKEN_CHARS = 16, 1024
MAX_FILE_BYTES = 2**20
# RFC 6750 says which characters a bearer token is made of; none of them needs quoting anywhere.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Secret:
    """A text that is shown to nobody who does not ask for it: not in a repr, an error or a log."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def check_token(text: str, key: str) -> Secret:
    """Return a token that has the form of one.

    Raises:
        ConfigError: it has not; the message blames `key` and does not quote the token.
    """
    if not MIN_TOKEN_CHARS <= len(text) <= MAX_TOKEN_CHARS:
        raise ConfigError(
            key,
            f"a token has {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} characters, this one {len(text)}; "
            "`openssl rand -hex 32` makes a good one",
        )
    if not _TOKEN.fullmatch(text):
        raise ConfigError(key, "a token is made of letters, digits and -._~+/ (and = at its end); this one is not")
    return Secret(text)


def read_private(path: Path, key: str) -> bytes:
    """Return what is in a file that strangers can neither read nor change.

    Raises:
        ConfigError: it cannot be read, is no file, is too large, or is open to every user of the machine.
    """
    try:
        # Not blocking: a pipe must be refused, not waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(key, f"{path} is no file")
            if mode & (stat.S_IROTH | stat.S_IWOTH):
                raise ConfigError(
                    key,
                    f"every user of this machine may read or change {path}; chmod 600 it "
                    "(for a mounted secret: defaultMode 0440)",
                )
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(key, f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(key, f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data


def bearer(token: Secret) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a token."""
    return ((AUTHORIZATION, f"Bearer {token.reveal()}"),)
