"""Chat messages as clients write them, as the SDK takes them: roles by their newer names, content in parts."""

from __future__ import annotations

from typing import Any

from crayon.errors import InvalidRequestError
from crayon.gateway.fields import Fields
from crayon.messages import Message, Role

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def read_messages(given: list[Fields]) -> list[Message]:
    """Return messages, those of the system merged into one at the front.

    Raises:
        InvalidRequestError: one is of another kind, or holds what this gateway cannot give to a model.
    """
    return with_system([], [_message(fields) for fields in given])


def with_system(system: list[str], messages: list[Message]) -> list[Message]:
    """Return messages behind one system message of these texts and their own ones; small templates know one only."""
    told = [*system, *(message.content for message in messages if message.role == "system")]
    rest = [message for message in messages if message.role != "system"]
    text = "\n\n".join(part for part in told if part)
    return [Message("system", text), *rest] if text else rest


def _message(fields: Fields) -> Message:
    where, role = fields.name("role"), fields.text("role")
    if role not in _ROLES:
        raise InvalidRequestError(where, f"must be one of {', '.join(_ROLES)}, not {role!r:.40}")
    for key in ("name", "audio", "tool_call_id", "function_call"):
        fields.refuse(key, "cannot be told to the model here; write it into the text")
    fields.refuse("tool_calls", "tools are not offered here", ([],))
    # What these clients give back of an answer they got; it is no part of the conversation.
    fields.skip("refusal", "annotations", "reasoning", "reasoning_content", "id", "status", "type", "phase")
    content = text_of(fields.take("content"), fields.name("content"))
    fields.end()
    return Message(_ROLES[role], content)


def text_of(content: Any, where: str) -> str:
    """Return a content, a text or a list of text parts, as one text.

    Raises:
        InvalidRequestError: it holds something else.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(where, "must be a text or a list of parts")
    texts = []
    for i, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        fields = Fields(part, f"{where}[{i}]")
        kind = fields.text("type")
        if kind not in _TEXT_PARTS:
            raise InvalidRequestError(
                f"{where}[{i}].type", f"must be text, not {kind!r:.40}: the models read text only"
            )
        texts.append(fields.text("text") or "")
        fields.skip("annotations", "logprobs", "cache_control")
        fields.refuse("citations", "are not read here; leave them away", ([],))
        fields.end()
    return "\n".join(texts)
