"""What a ledger's entries come to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.completion import Source
from crayon.ledger.entry import UNREACHED, Answered, Sent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from crayon.ledger.entry import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Answers and requests of a ledger.

    Args:
        answers: complete ones, and
        on_device: those of them that the device gave, and
        nothing_left: those of which nothing left the device.
        requests: sent to servers, and
        bytes: of these, and
        unreached: of those bytes, the ones a server may not have got, since it was not reached or was lost.
        to: bytes by server.
        reasons: answers by why they came from where they did, as SIDE/REASON.
        kept_back: answers by the kind of private data that was found in them.
        device_tokens, server_tokens: read and written for answers of each side.
    """

    answers: int
    on_device: int
    nothing_left: int
    requests: int
    bytes: int
    unreached: int
    to: Mapping[str, int]
    reasons: Mapping[str, int]
    kept_back: Mapping[str, int]
    device_tokens: int
    server_tokens: int


def sums(entries: Iterable[Entry]) -> Sums:
    """Return what entries come to."""
    to: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    found: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    requests = unreached = nothing_left = 0
    sides: Counter[str] = Counter()
    for entry in entries:
        if isinstance(entry, Sent):
            requests += 1
            to[entry.to] += entry.bytes
            unreached += entry.bytes if entry.status == UNREACHED else 0
        elif isinstance(entry, Answered):
            sides[entry.source] += 1
            reasons[f"{entry.source}/{entry.reason}"] += 1
            found.update(entry.found)
            nothing_left += not entry.bytes_sent
            tokens[entry.source] += entry.prompt_tokens + entry.completion_tokens
    return Sums(
        answers=sides.total(),
        on_device=sides[Source.DEVICE.value],
        nothing_left=nothing_left,
        requests=requests,
        bytes=to.total(),
        unreached=unreached,
        to=dict(to),
        reasons=dict(reasons.most_common()),
        kept_back=dict(found.most_common()),
        device_tokens=tokens[Source.DEVICE.value],
        server_tokens=tokens[Source.SERVER.value],
    )
