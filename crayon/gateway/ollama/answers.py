"""Ollama's `/api/chat`, `/api/generate` and `/api/embed`: answers as lines of JSON."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from crayon.completion import FinishReason
from crayon.errors import InvalidRequestError
from crayon.gateway.openai.embeddings import EMBEDDING_NAMES, embedding_call
from crayon.gateway.shared.conversation import read_messages, with_system
from crayon.gateway.shared.fields import Fields
from crayon.gateway.shared.options import NUMBERS, stops, tools
from crayon.gateway.shared.problems import Dialect
from crayon.gateway.shared.watched import GatewayAnswer, Watched, compact, json_response
from crayon.gateway.shared.wishes import NAMES, wishes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from crayon.completion import Completion
    from crayon.gateway.shared.gateway import Gateway
    from crayon.gateway.shared.models import VirtualModel
    from crayon.gateway.shared.problems import Problem
    from crayon.messages import ToolCall
    from crayon.sdk import Piece

_NS_PER_MS = 1_000_000


async def chat(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Answer a conversation."""
    model = await gateway.find(named(fields))
    options = _options(gateway, model, request, fields)
    given = fields.each("messages")
    for each in given:
        each.refuse("images", "the models read text only", ([],))
        each.skip("thinking")
    options |= tools(fields)
    stream = _stream(fields)
    fields.end()
    if not given:
        return json_response({**_head(model.id), "message": _said(""), **_LOADED})
    answer = gateway.client.stream(read_messages(given), **options)
    return GatewayAnswer(gateway, answer, LineWriter(model.id, chat=True), stream=stream)


async def generate(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Answer a prompt, as a user's message."""
    model = await gateway.find(named(fields))
    options = _options(gateway, model, request, fields)
    prompt, system = fields.text("prompt") or "", fields.text("system")
    for key in ("suffix", "template"):
        fields.refuse(key, "is not offered here: prompts go through the model's own template", ("",))
    fields.refuse("raw", "is not offered here: prompts go through the model's own template", (False,))
    fields.refuse("context", "is not read here; send the conversation to /api/chat", ([],))
    fields.refuse("images", "the models read text only", ([],))
    stream = _stream(fields)
    fields.end()
    if not prompt:
        return json_response({**_head(model.id), "response": "", **_LOADED})
    answer = gateway.client.stream(with_system([system or ""], [{"role": "user", "content": prompt}]), **options)
    return GatewayAnswer(gateway, answer, LineWriter(model.id, chat=False), stream=stream)


async def embed(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Embed texts."""
    model = await gateway.find(named(fields))
    texts, encode = embedding_call(gateway, model, request, fields)
    fields.refuse("dimensions", "vectors have the length that the model gives them; leave it away", (0,))
    # A text that is too long is refused: cutting it would be another text's vector.
    fields.refuse("truncate", "nothing is cut here; send what fits", (True, False))
    fields.refuse("options", "say nothing about vectors; leave them away", ({},))
    fields.skip("keep_alive")
    fields.end()

    async def make() -> Response:
        begin = time.perf_counter_ns()
        result = await encode(texts)
        body = {
            "model": model.id,
            "embeddings": result.vectors.tolist(),
            "total_duration": time.perf_counter_ns() - begin,
            "load_duration": 0,
            "prompt_eval_count": result.usage.prompt_tokens,
            "crayon": {"source": str(gateway.embeds), "model": result.model},
        }
        return json_response(body)

    return Watched(gateway, Dialect.OLLAMA, make, EMBEDDING_NAMES)


def named(fields: Fields) -> str | None:
    """Return the model's name; clients of Ollama put a tag behind it."""
    name = fields.text("model") or fields.text("name")
    return None if name is None else name.removesuffix(":latest")


def _options(gateway: Gateway, model: VirtualModel, request: Request, fields: Fields) -> dict[str, Any]:
    found = wishes(model, fields, request.headers)
    own = fields.fields("options") or Fields({}, "options")
    drawn: dict[str, Any] = {name: own.number(name) for name in NUMBERS}
    drawn |= {"top_k": own.whole("top_k"), "seed": own.whole("seed"), "stop": stops(own, "stop")}
    longest = own.whole("num_predict")
    # -1 and -2 are "as long as it fits" there.
    drawn["max_tokens"] = gateway.max_tokens if longest is None or longest < 0 else longest
    context, room = own.whole("num_ctx"), model.context_length
    if context is not None and room is not None and context > room:
        raise InvalidRequestError("options.num_ctx", f"the model was opened with a context of {room} tokens")
    own.end()
    form = fields.take("format")
    if form not in (None, ""):
        found["response_format"] = {"type": "json_schema", "json_schema": {"schema": form}} if form != "json" else form
    fields.refuse("think", "the models here do not think aloud; leave it away", (False,))
    fields.refuse("logprobs", "are not offered here; leave it away", (False,))
    fields.skip("keep_alive")  # the models stay
    return found | {name: value for name, value in drawn.items() if value is not None}


def _stream(fields: Fields) -> bool:
    stream = fields.flag("stream")
    return True if stream is None else stream


def _head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


_LOADED = {"done": True, "done_reason": "load"}


class LineWriter:
    """Writes answers as lines of JSON."""

    dialect = Dialect.OLLAMA
    media = "application/x-ndjson"
    beat = b""  # every line is an answer's there
    names: Mapping[str, str] = {**NAMES, "max_tokens": "options.num_predict", "response_format": "format"}

    def __init__(self, model: str, *, chat: bool) -> None:
        self._model = model
        self._chat = chat

    def begin(self) -> bytes:
        """Return nothing: the first piece is the first line."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """Return a line with a piece of text, of thoughts, or with calls of tools."""
        said = self._said(piece.text, piece.reasoning, piece.calls)
        return compact({**_head(self._model), **said, "done": False}) + b"\n"

    def end(self, completion: Completion, report: Mapping[str, Any]) -> bytes:
        """Return the last line."""
        return compact(self._last(self._said(""), completion, report)) + b"\n"

    def failed(self, problem: Problem) -> bytes:
        """Return the error, which clients raise."""
        return compact(problem.body(self.dialect)) + b"\n"

    def whole(self, completion: Completion, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return all in one object."""
        said = self._said(completion.text, completion.reasoning, completion.tool_calls)
        return self._last(said, completion, report)

    def _said(self, text: str, reasoning: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
        thought = {"thinking": reasoning} if reasoning else {}
        if not self._chat:
            return {"response": text, **thought}
        made = [{"id": call.id, "function": {"name": call.name, "arguments": call.parsed}} for call in calls]
        return {"message": {**_said(text), **thought, **({"tool_calls": made} if made else {})}}

    def _last(self, said: Mapping[str, Any], completion: Completion, report: Mapping[str, Any]) -> dict[str, Any]:
        timings, usage = completion.timings, completion.usage
        return {
            **_head(self._model),
            **said,
            "done": True,
            "done_reason": "length" if completion.finish_reason is FinishReason.LENGTH else "stop",
            "total_duration": round(completion.total_ms * _NS_PER_MS),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": round(timings.prompt_ms * _NS_PER_MS),
            "eval_count": usage.completion_tokens,
            "eval_duration": round(timings.decode_ms * _NS_PER_MS),
            "crayon": report,
        }
