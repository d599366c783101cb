"""A request's body: read within bounds of size, depth and time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from crayon.constraint import deeper_than
from crayon.errors import InvalidRequestError
from crayon.gateway.shared.problems import GONE, HttpError, Problem

if TYPE_CHECKING:
    from starlette.requests import Request

# Tool schemas and documents nest; what is deeper is an attack on whoever walks through it.
MAX_DEPTH = 64
# A body of the largest size takes a second on a slow line.
READ_S = 30.0


async def read_json(request: Request, limit: int) -> Any:
    """Return what the body says.

    Raises:
        HttpError: it is too large, comes too slowly, or the client has hung up.
        InvalidRequestError: it is no JSON, or nested too deep.
    """
    try:
        async with asyncio.timeout(READ_S):
            data = await _read(request, limit)
    except TimeoutError:
        message = f"the request's body did not come within {READ_S:g} s"
        raise HttpError(Problem(status=408, message=message, code="body_timeout", retry_after=1.0)) from None
    except ClientDisconnect:
        raise HttpError(Problem(status=GONE, message="the client hung up")) from None
    try:
        value = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # no UTF-8 is one, too
        said = (
            error.msg if isinstance(error, json.JSONDecodeError) else "it is no UTF-8 text, or holds no number of JSON"
        )
        raise InvalidRequestError("body", f"is no JSON: {said}") from None
    if deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    return value


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and len(declared) < 20 and int(declared) > limit:
        raise _too_large(limit)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise _too_large(limit)
    return bytes(data)


def _too_large(limit: int) -> HttpError:
    return HttpError(
        Problem(
            status=413, message=f"the request is larger than {limit} bytes (gateway.max_body_bytes)", code="too_large"
        )
    )


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError("body", f"is nested more than {MAX_DEPTH} deep")


def _no_number(name: str) -> None:
    raise ValueError(name)
