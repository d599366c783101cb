"""How an answer of `/v1/responses` is written: the whole object, and its events in their order."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from crayon.completion import FinishReason
from crayon.gateway.openai_chat import DONE, KEEP_ALIVE
from crayon.gateway.problems import Dialect
from crayon.gateway.watched import compact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.completion import Completion, Usage
    from crayon.gateway.problems import Problem


class ResponseWriter:
    """Writes one `response` with one message.

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
        self._place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        self._number = -1

    def begin(self) -> bytes:
        """Return what comes before the text."""
        response = self._response("in_progress", [])
        item = {"id": self._item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        return (
            self._event("response.created", response=response)
            + self._event("response.in_progress", response=response)
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place, part=_part(""))
        )

    def piece(self, text: str) -> bytes:
        """Return a piece of the text."""
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def end(self, completion: Completion, report: Mapping[str, Any]) -> bytes:
        """Return what comes after the text."""
        text = completion.text
        whole = self.whole(completion, report)
        return (
            self._event("response.output_text.done", **self._place, text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place, part=_part(text))
            + self._event("response.output_item.done", output_index=0, item=whole["output"][0])
            + self._event(f"response.{whole['status']}", response=whole)
            + DONE
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
        return {
            **self._response(status, [item]),
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


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
