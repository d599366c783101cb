"""OpenAI's `/v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from crayon.gateway.shared.conversation import read_messages
from crayon.gateway.shared.options import BESIDE, drawn, tools
from crayon.gateway.shared.problems import Dialect
from crayon.gateway.shared.watched import GatewayAnswer, compact
from crayon.gateway.shared.wishes import NAMES, wishes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from crayon.completion import Completion, Usage
    from crayon.gateway.shared.fields import Fields
    from crayon.gateway.shared.gateway import Gateway
    from crayon.gateway.shared.problems import Problem
    from crayon.messages import ToolCall
    from crayon.sdk import Piece

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


async def chat_completions(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Answer a conversation."""
    model = await gateway.find(fields.text("model"))
    options = wishes(model, fields, request.headers)
    messages = read_messages(fields.each("messages"))
    options |= drawn(fields, gateway.max_tokens) | tools(fields)
    if "response_format" in fields:
        options["response_format"] = fields.take("response_format")
    stream, usage = stream_options(fields)
    _refuse_rest(fields)
    answer = gateway.client.stream(messages, **options)
    return GatewayAnswer(gateway, answer, ChatWriter(model.id, usage=usage), stream=stream)


def stream_options(fields: Fields) -> tuple[bool, bool]:
    """Return whether an answer is streamed, and whether its usage comes as a chunk of its own."""
    stream, usage = fields.flag("stream") or False, False
    given = fields.fields("stream_options")
    if given is not None:
        usage = given.flag("include_usage") or False
        given.skip("include_obfuscation", "continuous_usage_stats")
        given.end()
    return stream, usage


def _refuse_rest(fields: Fields) -> None:
    fields.refuse("functions", "are tools by now; send them as those", ([],))
    fields.refuse("function_call", "is tool_choice by now; send it as that", ("none", "auto"))
    fields.refuse("logprobs", "are not offered here; leave it away", (False,))
    fields.refuse("top_logprobs", "are not offered here; leave it away", (0,))
    fields.refuse("modalities", "only text is written", (["text"],))
    fields.refuse("audio", "only text is written")
    fields.refuse("store", "nothing is kept of a chat here; leave it away", (False,))
    fields.refuse("service_tier", "there is one tier; leave it away", ("auto", "default"))
    fields.refuse("reasoning_effort", "is not offered here; leave it away", ("none",))
    fields.refuse("verbosity", "is not offered here; say it in the prompt", ("medium",))
    fields.skip(*BESIDE)
    fields.end()


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return token counts as OpenAI names them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def call_of(call: ToolCall) -> dict[str, Any]:
    """Return a call of a tool as OpenAI writes it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def thoughts(text: str) -> dict[str, str]:
    """Return what a model thought, by both names that clients look for."""
    return {"reasoning": text, "reasoning_content": text}


def event(value: Mapping[str, Any]) -> bytes:
    """Return a server-sent event without a name."""
    return b"data: " + compact(value) + b"\n\n"


class ChatWriter:
    """Writes `chat.completion` objects and chunks of them."""

    dialect = Dialect.OPENAI
    media = "text/event-stream; charset=utf-8"
    beat = KEEP_ALIVE
    names: Mapping[str, str] = NAMES

    def __init__(self, model: str, *, usage: bool) -> None:
        self._usage = usage
        self._calls = 0
        self._base = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
        }
        self._chunk = {**self._base, "object": "chat.completion.chunk"}

    def begin(self) -> bytes:
        """Return the chunk with the role."""
        return self._event({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        """Return a chunk of text, of thoughts, or of whole calls of tools."""
        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if piece.reasoning:
            delta |= thoughts(piece.reasoning)
        if piece.calls:
            delta["tool_calls"] = [{"index": self._calls + i, **call_of(call)} for i, call in enumerate(piece.calls)]
            self._calls += len(piece.calls)
        return self._event(delta) if delta else b""

    def end(self, completion: Completion, report: Mapping[str, Any]) -> bytes:
        """Return the chunk with the reason of the end, the one with the usage if it is wanted, and the end's mark."""
        last = self._event({}, str(completion.finish_reason), report)
        if self._usage:
            usage = usage_of(completion.usage)
            last += event({**self._chunk, "choices": [], "usage": usage, "crayon": report})
        return last + DONE

    def failed(self, problem: Problem) -> bytes:
        """Return the error, which clients raise."""
        return event(problem.body(self.dialect)) + DONE

    def whole(self, completion: Completion, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return a `chat.completion`."""
        content = completion.text or (None if completion.tool_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        if completion.reasoning:
            message |= thoughts(completion.reasoning)
        if completion.tool_calls:
            message["tool_calls"] = [call_of(call) for call in completion.tool_calls]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": str(completion.finish_reason),
        }
        return {**self._base, "choices": [choice], "usage": usage_of(completion.usage), "crayon": report}

    def _event(
        self, delta: Mapping[str, Any], reason: str | None = None, report: Mapping[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk: dict[str, Any] = {**self._chunk, "choices": [choice]}
        if self._usage:
            chunk["usage"] = None
        if report is not None:
            chunk["crayon"] = report
        return event(chunk)
