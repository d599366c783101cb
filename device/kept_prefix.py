"""What was computed for a shared prefix, kept in a private file that is of use to the same engine only."""

from __future__ import annotations

import array
import contextlib
import hashlib
import logging
import os
import stat
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crayon.private_file import write_private

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("crayon.device")

FORMAT: Final = 1
MAX_FILES = 4  # in one folder: a customisation under a few blends
MAX_BYTES = 512 * 2**20
_MAGIC: Final = b"CRAYONKV"
_HEADER = struct.Struct("<8sII32sQ")  # magic, format, tokens, identity, bytes of the state
_DIGEST: Final = 32
_PATTERN: Final = "prefix-*.kv"


@dataclass(frozen=True, slots=True)
class KeptPrefix:
    """Where the state of a prefix is kept between runs.

    Args:
        folder: has to be there; it is never made, so that nothing comes back of what was deleted.
        identity: 32 bytes that name all that the state depends on, its tokens included.
        tokens: of the prefix.
    """

    folder: Path
    identity: bytes
    tokens: tuple[int, ...]

    @property
    def path(self) -> Path:
        """The file, whether it is there or not."""
        return self.folder / f"prefix-{self.identity.hex()[:24]}.kv"

    def load(self) -> memoryview | None:
        """Return the state that is kept; None where there is none that can be used: a damaged one is removed."""
        try:
            state = self._read()
            os.utime(self.path)  # the one used last is removed last
        except FileNotFoundError:
            return None
        except ValueError as error:
            logger.debug("the prefix kept in %s is computed anew: %s", self.path, error)
            self.discard()
            return None
        except OSError as error:
            logger.debug("the prefix kept in %s cannot be read: %s", self.path, error)
            return None
        return state

    def store(self, state: bytes) -> None:
        """Keep a state, and at most the latest `MAX_FILES` of the folder. What prevents it is only logged."""
        tokens = _int32(self.tokens)
        header = _HEADER.pack(_MAGIC, FORMAT, len(self.tokens), self.identity, len(state))
        if len(header) + len(tokens) + len(state) + _DIGEST > MAX_BYTES:
            logger.debug("a prefix of %d tokens is too large to be kept", len(self.tokens))
            return
        try:
            # A file that a crash cuts is found out by its checksum: nobody has to wait for the disk.
            write_private(self.path, header, tokens, state, _digest(header, tokens, state), durable=False)
            files = sorted(self.folder.glob(_PATTERN), key=lambda path: path.stat().st_mtime_ns)
            for path in files[:-MAX_FILES]:
                if path != self.path:
                    path.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("a prefix cannot be kept in %s: %s", self.folder, error)

    def discard(self) -> None:
        """Remove the file, if it is there and can be removed."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _read(self) -> memoryview:
        found = self.path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is no file")
        if found.st_size > MAX_BYTES:
            raise ValueError("it is too large to be one of ours")
        with self.path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise ValueError("it is cut")
            magic, form, tokens, identity, size = _HEADER.unpack(header)
            if (magic, form) != (_MAGIC, FORMAT):
                raise ValueError("it is of another kind or format")
            if identity != self.identity or tokens != len(self.tokens):
                raise ValueError("it is of another prefix, model, blend, template or version")
            if found.st_size != _HEADER.size + 4 * tokens + size + _DIGEST:
                raise ValueError("it is cut, or something follows it")
            body = memoryview(file.read(found.st_size - _HEADER.size))
        if len(body) != 4 * tokens + size + _DIGEST or _digest(header, body[:-_DIGEST]) != body[-_DIGEST:]:
            raise ValueError("it is damaged")
        if body[: 4 * tokens] != _int32(self.tokens):
            raise ValueError("it is of other tokens")
        return body[4 * tokens : -_DIGEST]


def _digest(*parts: bytes | memoryview) -> bytes:
    found = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        found.update(part)
    return found.digest()


def _int32(tokens: tuple[int, ...]) -> bytes:
    found = array.array("i", tokens)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tobytes()
