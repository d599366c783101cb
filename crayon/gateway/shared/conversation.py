"""Chat messages as clients write them, as the SDK takes them: roles by their newer names, content in parts."""

from __future__ import annotations

from typing import Any, TypeAlias

from crayon.errors import InvalidRequestError
from crayon.gateway.shared.fields import Fields

# As the SDK takes it: role, content, and what belongs to tools.
Turn: TypeAlias = dict[str, Any]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def read_messages(given: list[Fields]) -> list[Turn]:
    """Return messages, those of the system merged into one at the front.

    Raises:
        InvalidRequestError: one is of another kind, or holds what this gateway cannot give to a model.
    """
    return with_system([], [read_message(fields) for fields in given])


def with_system(system: list[str], messages: list[Turn]) -> list[Turn]:
    """Return messages behind one system message of these texts and their own ones; small templates know one only."""
    told = [*system, *(message["content"] for message in messages if message["role"] == "system")]
    rest = [message for message in messages if message["role"] != "system"]
    text = "\n\n".join(part for part in told if part)
    return [{"role": "system", "content": text}, *rest] if text else rest


def read_message(fields: Fields) -> Turn:
    """Return one message.

    Raises:
        InvalidRequestError: as `read_messages`.
    """
    where, role = fields.name("role"), fields.text("role")
    if role not in _ROLES:
        raise InvalidRequestError(where, f"must be one of {', '.join(_ROLES)}, not {role!r:.40}")
    if role == "tool":
        fields.skip("name", "tool_name")
    for key in ("name", "audio", "function_call"):
        fields.refuse(key, "cannot be told to the model here; write it into the text")
    # What these clients give back of an answer they got; models are not told again what they thought.
    fields.skip("refusal", "annotations", "reasoning", "reasoning_content", "id", "status", "type", "phase")
    turn: Turn = {"role": _ROLES[role], "tool_calls": fields.items("tool_calls")}
    if (call := fields.text("tool_call_id")) is not None:
        turn["tool_call_id"] = call
    content = fields.take("content")
    if content is not None or not turn["tool_calls"]:
        turn["content"] = text_of(content, fields.name("content"))
    fields.end()
    return turn


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
