"""OpenAI's `/v1/responses`: what a request means, and the answers that are kept for a later one."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError
from crayon.gateway.openai.response_writer import ResponseWriter
from crayon.gateway.shared.conversation import Turn, read_message, text_of
from crayon.gateway.shared.options import longest, tools
from crayon.gateway.shared.response_store import Stored
from crayon.gateway.shared.watched import GatewayAnswer, json_response
from crayon.gateway.shared.wishes import NAMES, wishes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from crayon.completion import Completion
    from crayon.gateway.shared.fields import Fields
    from crayon.gateway.shared.gateway import Gateway

RESPONSE_NAMES: Mapping[str, str] = {**NAMES, "messages": "input", "max_tokens": "max_output_tokens"}
_BESIDE = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")


async def responses(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Answer a conversation, or what follows an earlier answer."""
    model = await gateway.find(fields.text("model"))
    owner = owner_of(request)
    options = wishes(model, fields, request.headers)
    before = fields.text("previous_response_id")
    past = () if before is None else gateway.responses.find(before, owner, "previous_response_id").messages
    asked = [*past, *_input(fields)]
    instructions = fields.text("instructions")
    drawn: dict[str, Any] = {name: fields.number(name) for name in _NUMBERS}
    drawn["max_tokens"] = longest(fields, "max_output_tokens", default=gateway.max_tokens)
    options |= {name: value for name, value in drawn.items() if value is not None}
    offered = tools(fields)
    options |= offered
    form = _format(fields)
    if form is not None:
        options["response_format"] = form
    store = fields.flag("store")
    keep = store is None or store
    metadata = fields.take("metadata", {})
    told = {name: fields.text(name) for name in ("safety_identifier", "prompt_cache_key")}
    stream = fields.flag("stream") or False
    _refuse_rest(fields)
    base = {
        **_ECHOED,
        **told,
        **_told_tools(offered),
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "model": model.id,
        "previous_response_id": before,
        "instructions": instructions,
        "text": {"format": form or {"type": "text"}},
        "temperature": drawn["temperature"] or 0.0,
        "top_p": 1.0 if drawn["top_p"] is None else drawn["top_p"],
        "presence_penalty": drawn["presence_penalty"] or 0.0,
        "frequency_penalty": drawn["frequency_penalty"] or 0.0,
        "max_output_tokens": drawn["max_tokens"],
        "store": keep,
        "metadata": metadata,
    }
    writer = ResponseWriter(base, RESPONSE_NAMES)

    def kept(completion: Completion) -> None:
        if keep:
            body = writer.whole(completion, gateway.reporter.body(completion))
            messages = (*asked, completion.message)
            gateway.responses.keep(str(base["id"]), Stored(owner, messages, body))

    answer = gateway.client.stream([*_instructions(instructions), *asked], **options)
    return GatewayAnswer(gateway, answer, writer, stream=stream, kept=kept)


async def show_response(gateway: Gateway, request: Request) -> Response:
    """Show an answer that is kept."""
    return json_response(gateway.responses.find(request.path_params["name"], owner_of(request)).body)


async def delete_response(gateway: Gateway, request: Request) -> Response:
    """Forget an answer."""
    name = request.path_params["name"]
    gateway.responses.forget(name, owner_of(request))
    return json_response({"id": name, "object": "response", "deleted": True})


def owner_of(request: Request) -> str:
    """Return whose token the request has shown, "" where none is wanted."""
    return str(request.scope.get("crayon.caller", ""))


_NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
# What every answer says of what is not offered.
_ECHOED: dict[str, Any] = {
    "truncation": "disabled",
    "reasoning": {"effort": None, "summary": None},
    "top_logprobs": 0,
    "max_tool_calls": None,
    "background": False,
    "service_tier": "default",
    "user": None,
}


def _input(fields: Fields) -> list[Turn]:
    value = fields.take("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise InvalidRequestError("input", "must be a text or a list of messages")
    turns: list[Turn] = []
    for item in fields.of_list("input", value):
        kind = item.text("type")
        if kind in {None, "message"}:
            turns.append(read_message(item))
        elif kind == "function_call":
            _add_call(turns, item)
        elif kind == "function_call_output":
            where, output = item.name("output"), item.take("output", "")
            turns.append({"role": "tool", "tool_call_id": item.text("call_id"), "content": text_of(output, where)})
            item.skip("id", "status")
            item.end()
        elif kind != "reasoning":  # models are not told again what they thought
            known = "message, function_call or function_call_output"
            raise InvalidRequestError(item.name("type"), f"must be {known}, not {kind!r:.40}")
    return turns


def _add_call(turns: list[Turn], item: Fields) -> None:
    """Add a call to the assistant's message that asks for it: calls of one answer are items of their own here."""
    function = {"name": item.text("name"), "arguments": item.take("arguments", "{}")}
    call = {"id": item.text("call_id"), "type": "function", "function": function}
    item.skip("id", "status")
    item.end()
    if turns and turns[-1]["role"] == "assistant":
        turns[-1]["tool_calls"] = [*turns[-1].get("tool_calls", []), call]
    else:
        turns.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _instructions(text: str | None) -> list[Turn]:
    return [{"role": "system", "content": text}] if text else []


def _told_tools(offered: dict[str, Any]) -> dict[str, Any]:
    """Return what the response says of tools: each with all its fields."""
    made = [
        {"description": None, "parameters": None, "strict": False, **tool} if isinstance(tool, dict) else tool
        for tool in offered.get("tools", [])
    ]
    return {
        "tools": made,
        "tool_choice": offered.get("tool_choice", "auto"),
        "parallel_tool_calls": offered.get("parallel_tool_calls", True),
    }


def _format(fields: Fields) -> dict[str, Any] | None:
    """Return the form of the answer as chats have it: there the schema is one level deeper."""
    text = fields.fields("text")
    if text is None:
        return None
    text.refuse("verbosity", "is not offered here; say it in the prompt", ("medium",))
    form = text.fields("format")
    text.end()
    kind = None if form is None else form.text("type")
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        form.end()
        return {"type": kind}
    if kind != "json_schema":
        raise InvalidRequestError("text.format.type", f"must be text, json_object or json_schema, not {kind!r:.40}")
    inner = {"name": form.text("name"), "schema": form.take("schema")}
    form.skip("strict", "description")
    form.end()
    return {"type": "json_schema", "json_schema": inner}


def _refuse_rest(fields: Fields) -> None:
    fields.refuse("truncation", "nothing is cut here; send what fits", ("disabled",))
    fields.refuse("background", "answers come at once", (False,))
    fields.refuse("reasoning", "the models here do not reason aloud; leave it away", ({}, {"effort": None}))
    fields.refuse("include", "there is nothing more to tell", ([],))
    fields.refuse("top_logprobs", "are not offered here; leave it away", (0,))
    fields.refuse("service_tier", "there is one tier; leave it away", ("auto", "default"))
    fields.refuse("conversation", "is not kept here; send previous_response_id")
    fields.refuse("prompt", "is not kept here; send input")
    fields.refuse("max_tool_calls", "counts tools that are run by the server, and none is run here")
    fields.skip("stream_options", *_BESIDE)
    fields.end()
