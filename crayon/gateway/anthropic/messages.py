"""Anthropic's `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from crayon.completion import FinishReason, Usage
from crayon.errors import InvalidRequestError
from crayon.gateway.anthropic.tools import anthropic_tools, read_turns
from crayon.gateway.shared.conversation import Turn, text_of, with_system
from crayon.gateway.shared.options import stops
from crayon.gateway.shared.problems import Dialect
from crayon.gateway.shared.watched import GatewayAnswer, Watched, compact, json_response
from crayon.gateway.shared.wishes import NAMES, wishes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from crayon.completion import Completion
    from crayon.gateway.shared.fields import Fields
    from crayon.gateway.shared.gateway import Gateway
    from crayon.gateway.shared.problems import Problem
    from crayon.messages import ToolCall
    from crayon.sdk import Piece

ANTHROPIC_NAMES: Mapping[str, str] = {**NAMES, "stop": "stop_sequences"}
_ENDS = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
}


async def messages(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Answer a conversation."""
    model = await gateway.find(fields.text("model"))
    options = wishes(model, fields, request.headers)
    asked = _asked(fields)
    options |= anthropic_tools(fields)
    longest = fields.whole("max_tokens")
    if longest is None:
        raise InvalidRequestError("max_tokens", "must be given: how long the answer may be")
    drawn: dict[str, Any] = {
        "max_tokens": longest,
        "temperature": fields.number("temperature"),
        "top_p": fields.number("top_p"),
        "top_k": fields.whole("top_k"),
        "stop": stops(fields, "stop_sequences"),
    }
    options |= {name: value for name, value in drawn.items() if value is not None}
    if (wanted := fields.fields("output_config")) is not None:
        if "format" in wanted:
            options["response_format"] = _format(wanted)
        wanted.end()
    stream = fields.flag("stream") or False
    _refuse_rest(fields)
    answer = gateway.client.stream(asked, **options)
    return GatewayAnswer(gateway, answer, MessageWriter(model.id), stream=stream)


async def count_tokens(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Count how many tokens the device's model reads for a conversation."""
    wishes(await gateway.find(fields.text("model")), fields, request.headers)
    asked = _asked(fields)
    if "tools" in fields:
        raise InvalidRequestError("tools", "are not counted here; count without them")
    _refuse_rest(fields)

    async def make() -> Response:
        return json_response({"input_tokens": await gateway.client.count_tokens(asked)})

    return Watched(gateway, Dialect.ANTHROPIC, make, ANTHROPIC_NAMES)


def _asked(fields: Fields) -> list[Turn]:
    system = fields.take("system")
    told = [] if system is None else [text_of(system, "system")]
    return with_system(told, [turn for each in fields.each("messages") for turn in read_turns(each)])


def _format(wanted: Fields) -> dict[str, Any]:
    form = wanted.fields("format")
    kind = None if form is None else form.text("type")
    if form is None or kind != "json_schema":
        raise InvalidRequestError("output_config.format.type", f"must be json_schema, not {kind!r:.40}")
    schema = form.take("schema")
    form.end()
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _refuse_rest(fields: Fields) -> None:
    fields.refuse("mcp_servers", "are not asked from here; offer tools of your own", ([],))
    fields.refuse("container", "there are none here; leave it away")
    fields.refuse("thinking", "the models here do not think aloud; leave it away", ({"type": "disabled"},))
    fields.refuse("service_tier", "there is one tier; leave it away", ("auto", "standard_only"))
    fields.skip("metadata", "cache_control")
    fields.end()


def _usage(usage: Usage) -> dict[str, Any]:
    """Return token counts as Anthropic names them: what was read from the cache is no part of the input."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "server_tool_use": None,
    }


def _whole_usage(usage: Usage) -> dict[str, Any]:
    return {**_usage(usage), "cache_creation": None, "inference_geo": None, "service_tier": "standard"}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": None}


# What a message says beside its text while it is written.
_OPEN: dict[str, Any] = {"stop_reason": None, "stop_sequence": None, "stop_details": None, "container": None}


class MessageWriter:
    """Writes a `message`, whole or as named events."""

    dialect = Dialect.ANTHROPIC
    media = "text/event-stream; charset=utf-8"
    beat = b'event: ping\ndata: {"type":"ping"}\n\n'
    names = ANTHROPIC_NAMES

    def __init__(self, model: str) -> None:
        self._base: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._index = -1  # of the block that was begun last
        self._open = False

    def begin(self) -> bytes:
        """Return the message's start. What was read is known at the end only."""
        message = {**self._base, **_OPEN, "content": [], "usage": _whole_usage(Usage())}
        return _event("message_start", message=message)

    def piece(self, piece: Piece) -> bytes:
        """Return a delta of the text's block, which it opens, and whole blocks of calls. Thoughts are not told."""
        data = b""
        if piece.text:
            data += self._text_block()
            delta = {"type": "text_delta", "text": piece.text}
            data += _event("content_block_delta", index=self._index, delta=delta)
        for call in piece.calls:
            data += self._close() + self._tool_block(call)
        return data

    def end(self, completion: Completion, report: Mapping[str, Any]) -> bytes:
        """Return the ends of block and message."""
        delta = {**_OPEN, "stop_reason": _ENDS[completion.finish_reason]}
        empty = self._text_block() if self._index < 0 else b""
        return (
            empty
            + self._close()
            + _event("message_delta", delta=delta, usage=_usage(completion.usage), crayon=report)
            + _event("message_stop")
        )

    def failed(self, problem: Problem) -> bytes:
        """Return the error, which clients raise."""
        return b"event: error\ndata: " + compact(problem.body(self.dialect)) + b"\n\n"

    def whole(self, completion: Completion, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return a `message`."""
        return {
            **self._base,
            **_OPEN,
            "content": _content(completion),
            "stop_reason": _ENDS[completion.finish_reason],
            "usage": _whole_usage(completion.usage),
            "crayon": report,
        }

    def _text_block(self) -> bytes:
        """Return the beginning of a block of text, unless one is open."""
        if self._open:
            return b""
        self._index, self._open = self._index + 1, True
        return _event("content_block_start", index=self._index, content_block=_text(""))

    def _close(self) -> bytes:
        opened, self._open = self._open, False
        return _event("content_block_stop", index=self._index) if opened else b""

    def _tool_block(self, call: ToolCall) -> bytes:
        self._index += 1
        block = {**_tool_use(call), "input": {}}
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        return (
            _event("content_block_start", index=self._index, content_block=block)
            + _event("content_block_delta", index=self._index, delta=delta)
            + _event("content_block_stop", index=self._index)
        )


def _content(completion: Completion) -> list[dict[str, Any]]:
    calls = [_tool_use(call) for call in completion.tool_calls]
    return [_text(completion.text), *calls] if completion.text or not calls else calls


def _tool_use(call: ToolCall) -> dict[str, Any]:
    # `caller` says that the model asks for it, and no program of the provider's.
    caller = {"type": "direct"}
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": call.parsed, "caller": caller}


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + compact({"type": kind, **fields}) + b"\n\n"
