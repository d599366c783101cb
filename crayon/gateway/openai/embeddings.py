"""OpenAI's `/v1/embeddings`, by the device's model (the server's where there is no device)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from crayon.completion import Mode, Source
from crayon.errors import InvalidRequestError
from crayon.gateway.shared.options import BESIDE
from crayon.gateway.shared.problems import Dialect
from crayon.gateway.shared.watched import Watched, json_response
from crayon.gateway.shared.wishes import NAMES, wishes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from crayon.engine import EncodeResult
    from crayon.gateway.shared.fields import Fields
    from crayon.gateway.shared.gateway import Gateway
    from crayon.gateway.shared.models import VirtualModel

_FORMATS = ("float", "base64")


async def embeddings(gateway: Gateway, request: Request, fields: Fields) -> Response:
    """Embed texts."""
    model = await gateway.find(fields.text("model"))
    texts, encode = embedding_call(gateway, model, request, fields)
    form = fields.text("encoding_format") or "float"
    if form not in _FORMATS:
        raise InvalidRequestError("encoding_format", f"must be float or base64, not {form[:40]!r}")
    fields.refuse("dimensions", "vectors have the length that the model gives them; leave it away")
    fields.skip(*BESIDE)
    fields.end()

    async def make() -> Response:
        result = await encode(texts)
        usage = {"prompt_tokens": result.usage.prompt_tokens, "total_tokens": result.usage.prompt_tokens}
        data = [
            {"object": "embedding", "index": i, "embedding": vector}
            for i, vector in enumerate(_vectors(result, base64_wanted=form == "base64"))
        ]
        crayon = {"source": str(gateway.embeds), "model": result.model}
        body = {"object": "list", "data": data, "model": model.id, "usage": usage, "crayon": crayon}
        return json_response(body, headers={"x-crayon-source": str(gateway.embeds)})

    return Watched(gateway, Dialect.OPENAI, make, EMBEDDING_NAMES)


EMBEDDING_NAMES: Mapping[str, str] = {**NAMES, "texts": "input"}


def embedding_call(
    gateway: Gateway, model: VirtualModel, request: Request, fields: Fields
) -> tuple[list[str], Callable[[list[str]], Awaitable[EncodeResult]]]:
    """Return the texts of a request and what embeds them; `fields` loses its input and wishes.

    Raises:
        InvalidRequestError: a text is wrong, or the wishes name a side that does not embed here.
    """
    wanted = wishes(model, fields, request.headers)
    side = Source.SERVER if wanted.pop("mode", None) is Mode.ONLY_ON_SERVER else None
    if side is not None and gateway.embeds is not side:
        raise InvalidRequestError("model", "the device embeds where there is one; ask crayon/device")
    if model.blend is not None or "blend" in wanted:
        raise InvalidRequestError("model", "a customisation embeds nothing of its own; ask crayon")
    if unknown := sorted(set(wanted) - {"private", "timeout"}):
        raise InvalidRequestError(f"crayon.{unknown[0]}", "says nothing about vectors; leave it away")
    given = fields.take("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError("input", "must be a text or a list of texts; lists of tokens are not taken")
    return texts, lambda texts: gateway.client.encode(texts, **wanted)


def _vectors(result: EncodeResult, *, base64_wanted: bool) -> list[Any]:
    if base64_wanted:
        return [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in result.vectors]
    rows: list[Any] = result.vectors.tolist()
    return rows
