"""How an answer of `/v1/responses` is written: the whole object, and its events in their order."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from crayon.completion import FinishReason
from crayon.gateway.openai.chat import DONE, KEEP_ALIVE
from crayon.gateway.shared.problems import Dialect
from crayon.gateway.shared.watched import compact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.completion import Completion, Usage
    from crayon.gateway.shared.problems import Problem
    from crayon.messages import ToolCall
    from crayon.sdk import Piece


class ResponseWriter:
    """Writes one `response`: a message, calls of tools, or both.

    Args:
        base: what the response says of the request.
        names: what the route calls the fields that the SDK has other names for.
    """

    dialect = Dialect.OPENAI
    media = "text/event-stream; charset=utf-8"
    beat = KEEP_ALIVE

    def __init__(self, base: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.names = names
        self._base = base
        self._item = f"msg_{uuid.uuid4().hex}"
        self._number = -1
        self._index = -1  # of the item that was begun last
        self._message: dict[str, Any] | None = None  # where the message's text is, once it was begun
        self._calls: list[dict[str, Any]] = []

    def begin(self) -> bytes:
        """Return what comes before the first item."""
        response = self._response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def piece(self, piece: Piece) -> bytes:
        """Return a piece of the text, which begins the message, and whole calls of tools. Thoughts are not told."""
        data = b""
        if piece.text:
            data += self._begun_message()
            data += self._event("response.output_text.delta", **(self._message or {}), delta=piece.text, logprobs=[])
        for call in piece.calls:
            data += self._call(call)
        return data

    def end(self, completion: Completion, report: Mapping[str, Any]) -> bytes:
        """Return the end of the message, if there is one, and that of the response."""
        whole = self.whole(completion, report)
        data = b"" if self._calls else self._begun_message()
        if self._message is not None:
            text = completion.text
            item = next(each for each in whole["output"] if each["type"] == "message")
            data += (
                self._event("response.output_text.done", **self._message, text=text, logprobs=[])
                + self._event("response.content_part.done", **self._message, part=_part(text))
                + self._event("response.output_item.done", output_index=self._message["output_index"], item=item)
            )
        return data + self._event(f"response.{whole['status']}", response=whole) + DONE

    def _begun_message(self) -> bytes:
        if self._message is not None:
            return b""
        self._index += 1
        self._message = {"item_id": self._item, "output_index": self._index, "content_index": 0}
        item = {"id": self._item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        return self._event("response.output_item.added", output_index=self._index, item=item) + self._event(
            "response.content_part.added", **self._message, part=_part("")
        )

    def _call(self, call: ToolCall) -> bytes:
        self._index += 1
        item = _function_call(call)
        self._calls.append(item)
        place = {"item_id": item["id"], "output_index": self._index}
        begun = {**item, "status": "in_progress", "arguments": ""}
        return (
            self._event("response.output_item.added", output_index=self._index, item=begun)
            + self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
            + self._event("response.function_call_arguments.done", **place, arguments=call.arguments)
            + self._event("response.output_item.done", output_index=self._index, item=item)
        )

    def failed(self, problem: Problem) -> bytes:
        """Return the error, which clients raise, and the response as it stands."""
        error = {"code": problem.code or "server_error", "message": problem.message}
        body = problem.body(self.dialect)["error"]
        return (
            self._event("error", error=body)
            + self._event("response.failed", response={**self._response("failed", []), "error": error})
            + DONE
        )

    def whole(self, completion: Completion, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response."""
        cut = completion.finish_reason is FinishReason.LENGTH
        status = "incomplete" if cut else "completed"
        item = {
            "id": self._item,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [_part(completion.text)],
        }
        calls = self._calls or [_function_call(call) for call in completion.tool_calls]
        output = [item, *calls] if completion.text or not calls else calls
        return {
            **self._response(status, output),
            "completed_at": int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": _usage(completion.usage),
            "crayon": report,
        }

    def _response(self, status: str, output: list[Any]) -> dict[str, Any]:
        return {
            **self._base,
            "status": status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "output": output,
            "usage": None,
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        data = compact({"type": kind, "sequence_number": self._number, **fields})
        return f"event: {kind}\ndata: ".encode() + data + b"\n\n"


def _function_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"fc_{uuid.uuid4().hex}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
