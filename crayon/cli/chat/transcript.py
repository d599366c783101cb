"""Conversations as JSON files: written whole and readable by their owner only, checked when read."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError
from crayon.messages import Message, normalise_messages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KIND, VERSION = "crayon-chat", 1
MAX_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Transcript:
    """A saved conversation, and whether it must stay on the device."""

    messages: tuple[Message, ...]
    private: bool


def save_transcript(path: Path, messages: Sequence[Message], *, private: bool) -> None:
    """Write a conversation to `path`, replacing it at once or not at all; mode 0600.

    Raises:
        InvalidRequestError: the file cannot be written.
    """
    record = {
        "kind": KIND,
        "version": VERSION,
        "private": private,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
    }
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    temporary = None
    try:
        # mkstemp creates with mode 0600.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)  # noqa: PTH105 - temporary is a plain name from mkstemp
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108 - as above
        raise InvalidRequestError("path", f"{path} cannot be written: {error.strerror or error}") from None


def load_transcript(path: Path) -> Transcript:
    """Return a saved conversation: whole turns, a system message only at the start.

    Only a file that says so is not private.

    Raises:
        InvalidRequestError: the file cannot be read or is no conversation of ours; says which part.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidRequestError("path", f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise InvalidRequestError("path", f"{path} is larger than {MAX_BYTES // 2**20} MiB, too large for a chat")
    try:
        record: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequestError("path", f"{path} is no JSON; choose a file that /save has written") from None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise InvalidRequestError("path", f"{path} is no saved chat; choose a file that /save has written")
    if record.get("version") != VERSION:
        raise InvalidRequestError("version", f"{record.get('version')!r} is unknown, this program reads {VERSION}")
    items = record.get("messages")
    if not isinstance(items, list):
        raise InvalidRequestError("messages", "must be a list")
    # As it will be when the next question is asked: that is what must be valid.
    messages = normalise_messages([*items, Message("user", "next")])[:-1]
    _check_turns(messages)
    return Transcript(messages, private=record.get("private") is not False)


def _check_turns(messages: Sequence[Message]) -> None:
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    first = len(messages) - len(turns)
    for i, message in enumerate(turns):
        expected = ("user", "assistant")[i % 2]
        if message.role != expected:
            raise InvalidRequestError(f"messages[{first + i}].role", f"must be {expected}, not {message.role}")
    if len(turns) % 2:
        raise InvalidRequestError("messages", "the last question has no answer; remove it from the file")
