"""Chat messages: what callers pass in, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from crayon.errors import InvalidRequestError

Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


MessageLike: TypeAlias = Message | Mapping[str, str]
MessagesLike: TypeAlias = str | MessageLike | Iterable[MessageLike]


def normalise_messages(value: MessagesLike) -> tuple[Message, ...]:
    """Return `value` as checked messages; a bare string is one user message.

    Raises:
        InvalidRequestError: no messages, an unknown role, content that is not text or is empty, or a
            conversation that does not end with a user message. The field names the message by index.
    """
    if isinstance(value, str):
        value = (Message("user", value),)
    elif isinstance(value, Message | Mapping):
        value = (value,)
    try:
        items = list(value)
    except TypeError:
        raise InvalidRequestError("messages", "must be a string or a list of {'role', 'content'}") from None
    if not items:
        raise InvalidRequestError("messages", "is empty; pass a string or at least one user message")
    messages = tuple(_message(item, f"messages[{i}]") for i, item in enumerate(items))
    if messages[-1].role != "user":
        raise InvalidRequestError(
            f"messages[{len(messages) - 1}].role", "the last message must be the user's, there is nothing to answer"
        )
    return messages


def check_unicode(field: str, text: str) -> None:
    """Check that `text` can be written as UTF-8, as every engine and the wire will.

    Raises:
        InvalidRequestError: it holds a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequestError(field, "holds a lone surrogate, which is not valid Unicode") from None


def _message(item: object, field: str) -> Message:
    role: object
    content: object
    if isinstance(item, Message):
        role, content = item.role, item.content
    elif isinstance(item, Mapping):
        extra = sorted(str(key) for key in set(item) - {"role", "content"})
        if extra:
            raise InvalidRequestError(f"{field}.{extra[0]}", "is unknown; a message has 'role' and 'content'")
        role, content = item.get("role"), item.get("content")
    else:
        raise InvalidRequestError(field, f"must be {{'role', 'content'}}, not {type(item).__name__}")
    if role not in ROLES:
        raise InvalidRequestError(f"{field}.role", f"must be one of {', '.join(ROLES)}, not {role!r}")
    if not isinstance(content, str):
        raise InvalidRequestError(f"{field}.content", f"must be text, not {type(content).__name__}")
    if role == "user" and not content.strip():
        raise InvalidRequestError(f"{field}.content", "is empty; there is nothing to answer")
    check_unicode(f"{field}.content", content)
    return Message(cast("Role", role), content)
