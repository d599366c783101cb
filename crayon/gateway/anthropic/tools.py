"""Anthropic's tools, and the blocks of its messages that speak of them, in OpenAI's form, which is the SDK's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError
from crayon.gateway.shared.conversation import text_of
from crayon.gateway.shared.fields import Fields

if TYPE_CHECKING:
    from crayon.gateway.shared.conversation import Turn

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_ROLES = ("user", "assistant", "system")


def anthropic_tools(fields: Fields) -> dict[str, Any]:
    """Return the keywords that say what may be called.

    Raises:
        InvalidRequestError: a tool is one that Anthropic runs, or the choice is unknown.
    """
    found: dict[str, Any] = {}
    tools = [_tool(each) for each in fields.each("tools")]
    if tools:
        found["tools"] = tools
    choice = fields.fields("tool_choice")
    if choice is not None:
        kind = choice.text("type")
        if kind != "tool" and kind not in _CHOICES:
            raise InvalidRequestError("tool_choice.type", f"must be auto, any, tool or none, not {kind!r:.40}")
        found["tool_choice"] = choice.text("name") if kind == "tool" else _CHOICES[kind]
        if choice.flag("disable_parallel_tool_use"):
            found["parallel_tool_calls"] = False
        choice.end()
    return found


def _tool(fields: Fields) -> dict[str, Any]:
    kind = fields.text("type")
    if kind not in {None, "custom"}:
        raise InvalidRequestError(fields.name("type"), f"must be custom, not {kind!r:.40}: no tool is run here")
    function = {
        "name": fields.text("name"),
        "description": fields.text("description"),
        "parameters": fields.take("input_schema"),
    }
    fields.skip("cache_control", "strict", "eager_input_streaming")
    fields.end()
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def read_turns(fields: Fields) -> list[Turn]:
    """Return a message as turns: the results of calls are turns of their own, before what else it says.

    Raises:
        InvalidRequestError: it holds what models here cannot read.
    """
    where, role = fields.name("role"), fields.text("role")
    if role not in _ROLES:
        raise InvalidRequestError(where, f"must be one of {', '.join(_ROLES)}, not {role!r:.40}")
    content, place = fields.take("content"), fields.name("content")
    fields.end()
    if not isinstance(content, list):
        return [{"role": role, "content": text_of(content, place)}]
    results: list[Turn] = []
    calls: list[dict[str, Any]] = []
    texts: list[str] = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        block = f"{place}[{i}]"
        if kind == "tool_use":
            calls.append(_call(Fields(part, block)))
        elif kind == "tool_result":
            results.append(_result(Fields(part, block)))
        elif kind not in {"thinking", "redacted_thinking"}:  # models are not told again what they thought
            if kind != "text":
                raise InvalidRequestError(f"{block}.type", f"is {kind!r:.40}, and the models here read text only")
            texts.append(text_of([part], place))
    turn: Turn = {"role": role, "content": "\n".join(texts)}
    if calls:
        turn["tool_calls"] = calls
    return [*results, turn] if texts or calls or not results else results


def _call(fields: Fields) -> dict[str, Any]:
    function = {"name": fields.text("name"), "arguments": fields.take("input", {})}
    made = {"id": fields.text("id"), "type": "function", "function": function}
    fields.skip("type", "cache_control", "caller")
    fields.end()
    return made


def _result(fields: Fields) -> Turn:
    where, content = fields.name("content"), fields.take("content", "")
    text = text_of(content, where)
    said = f"error: {text}" if fields.flag("is_error") else text
    made = {"role": "tool", "tool_call_id": fields.text("tool_use_id"), "content": said}
    fields.skip("type", "cache_control")
    fields.end()
    return made
