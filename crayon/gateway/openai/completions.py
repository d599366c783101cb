"""OpenAI's older `/v1/completions`: the prompt is asked as a user's message, for these models are made for chats."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError
from crayon.gateway.openai.chat import DONE, KEEP_ALIVE, event, stream_options, usage_of
from crayon.gateway.shared.options import BESIDE, drawn
from crayon.gateway.shared.problems import Dialect
from crayon.gateway.shared.watched import GatewayAnswer
from crayon.gateway.shared.wishes import NAMES, wishes
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from crayon.completion import Completion
    from crayon.gateway.shared.fields import Fields
    from crayon.gateway.shared.gateway import Gateway
    from crayon.gateway.shared.problems import Problem
    from crayon.sdk import Piece


async def completions(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Answer a prompt."""
    model = await gateway.find(fields.text("model"))
    options = wishes(model, fields, request.headers)
    prompt = fields.take("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequestError("prompt", "must be one text; several, and lists of tokens, are not taken")
    options |= drawn(fields, gateway.max_tokens)
    stream, usage = stream_options(fields)
    fields.refuse("suffix", "nothing is filled in between two texts here; leave it away", ("",))
    fields.refuse("echo", "the prompt is not given back; leave it away", (False,))
    fields.refuse("best_of", "only one answer is written; leave it away", (1,))
    fields.refuse("logprobs", "are not offered here; leave it away", (0,))
    fields.skip(*BESIDE)
    fields.end()
    answer = gateway.client.stream([Message("user", prompt)], **options)
    return GatewayAnswer(gateway, answer, TextWriter(model.id, usage=usage), stream=stream)


class TextWriter:
    """Writes `text_completion` objects, whole and piece by piece."""

    dialect = Dialect.OPENAI
    media = "text/event-stream; charset=utf-8"
    beat = KEEP_ALIVE
    names: Mapping[str, str] = {**NAMES, "messages": "prompt"}

    def __init__(self, model: str, *, usage: bool) -> None:
        self._usage = usage
        self._base = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def begin(self) -> bytes:
        """Return nothing: there is no role to tell."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """Return a piece of text."""
        return event({**self._base, "choices": [_choice(piece.text)]}) if piece.text else b""

    def end(self, completion: Completion, report: Mapping[str, Any]) -> bytes:
        """Return the reason of the end, the usage if it is wanted, and the end's mark."""
        last = event({**self._base, "choices": [_choice("", str(completion.finish_reason))], "crayon": report})
        if self._usage:
            last += event({**self._base, "choices": [], "usage": usage_of(completion.usage), "crayon": report})
        return last + DONE

    def failed(self, problem: Problem) -> bytes:
        """Return the error, which clients raise."""
        return event(problem.body(self.dialect)) + DONE

    def whole(self, completion: Completion, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return a `text_completion`."""
        choice = _choice(completion.text, str(completion.finish_reason))
        return {**self._base, "choices": [choice], "usage": usage_of(completion.usage), "crayon": report}


def _choice(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
