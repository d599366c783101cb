"""What the ledger says of one request that was sent, and of one answer."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from crayon.completion import Completion

OK = "OK"
UNREACHED = "UNAVAILABLE"
"""The status of a request whose server could not be reached, or was lost: it may have got none of the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request handed to a server's connection; one that is tried again is another entry.

    Args:
        at: when, in seconds since 1970.
        request_id: the request's name, which the server logs too; "" where it has none.
        to: the server's address.
        method: of the protocol: Generate, Score or Encode.
        bytes: of the request's message; the server logs the same number as `request_bytes`.
        status: "OK", or the name of gRPC's status that the call ended with.
    """

    at: float
    request_id: str
    to: str
    method: str
    bytes: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One complete answer.

    Args:
        at: when it was complete, in seconds since 1970.
        request_id: the request's name.
        source: whose text it is: "device" or "server".
        reason: why, a word of `Reason`.
        score, threshold: the number that decided, and what it was compared with.
        profile: of the customisation that was applied, as NAME/PROFILE.
        bytes_sent: of its requests; 0: nothing left the device.
        found: kinds of private data that were found in it.
        action: what that meant: "keep" (on the device), "redact", "send", or "" where nothing was looked for.
        dropped_turns: earlier turns that the server was not sent.
        prompt_tokens, completion_tokens: read and written by the side that answered.
        ttft_ms, total_ms: to the first piece of text and to the last.
    """

    at: float
    request_id: str
    source: str
    reason: str
    score: float | None = None
    threshold: float | None = None
    profile: str | None = None
    bytes_sent: int = 0
    found: tuple[str, ...] = ()
    action: str = ""
    dropped_turns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float = 0.0
    total_ms: float = 0.0


Entry: TypeAlias = Sent | Answered
_KINDS: dict[str, type[Sent | Answered]] = {"sent": Sent, "answer": Answered}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def answered(completion: Completion, request_id: str, at: float) -> Answered:
    """Return the entry of an answer."""
    route = completion.route
    privacy = route.privacy
    return Answered(
        at=at,
        request_id=request_id,
        source=route.source.value,
        reason=route.reason.value,
        score=_finite(route.score),
        threshold=_finite(route.threshold),
        profile=f"{route.customization}/{route.profile}" if route.customization else None,
        bytes_sent=route.bytes_sent,
        found=privacy.found if privacy else (),
        action=privacy.action if privacy else "",
        dropped_turns=privacy.dropped_turns if privacy else 0,
        prompt_tokens=completion.usage.prompt_tokens,
        completion_tokens=completion.usage.completion_tokens,
        ttft_ms=round(completion.ttft_ms, 1),
        total_ms=round(completion.total_ms, 1),
    )


def record(entry: Entry) -> dict[str, Any]:
    """Return an entry as plain JSON values, `kind` first; what is as if nothing were said is left away."""
    usual = {field.name: field.default for field in fields(entry)}
    told = {name: value for name, value in asdict(entry).items() if value != usual[name]}
    return {"kind": _NAMES[type(entry)], **told}


def line_of(entry: Entry) -> bytes:
    """Return an entry as one line of the file."""
    return json.dumps(record(entry), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def entry_of(line: bytes) -> Entry:
    """Return the entry that a line holds; a key that this version does not know is skipped.

    Raises:
        ValueError: it holds none.
    """
    found = json.loads(line)
    kind = _KINDS.get(str(found.get("kind"))) if isinstance(found, dict) else None
    if kind is None:
        raise ValueError("no entry")
    given = {field.name: found[field.name] for field in fields(kind) if field.name in found}
    if "found" in given:
        given["found"] = tuple(str(name) for name in given["found"])
    try:
        return kind(**{name: _checked(kind, name, value) for name, value in given.items()})
    except TypeError as error:
        raise ValueError(str(error)) from None


def _checked(kind: type[Entry], name: str, value: Any) -> Any:
    wanted = str(next(field.type for field in fields(kind) if field.name == name))
    fits = {"float": int | float, "int": int, "str": str}.get(wanted.removesuffix(" | None"))
    if fits is not None and (isinstance(value, bool) or not isinstance(value, fits)):
        raise ValueError(name)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(name)
    return value


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
