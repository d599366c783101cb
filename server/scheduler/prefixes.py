"""Which tokens a request need not compute, because a sequence of the same blend begins with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from crayon.server.scheduler.request import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crayon.server.scheduler.draft import Draft
    from crayon.server.scheduler.request import Request
    from crayon.server.scheduler.step import Prefix


class PrefixIndex(Protocol):
    """Knows tokens, which the policy does not."""

    def match(self, request_id: str) -> Iterable[tuple[str, int]]:
        """Yield requests, running or finished, and how many tokens the request's prompt begins with as they do.

        The longest first. Only those of the same blend; who is not in the cache does no harm.
        """
        ...


def best_source(draft: Draft, index: PrefixIndex, request: Request) -> Prefix | None:
    """Return the sequence to begin with, if one holds more of the request's prompt than its own does.

    `tokens` are those to copy. The last token of the prompt is computed in any case, for its logits.
    """
    if request.kind is Kind.ENCODE:
        return None
    best: Prefix | None = None
    most = draft.start(request)
    for name, found in index.match(request.id):
        common = min(found, request.prompt - 1)
        if common <= most:
            break
        source = draft.source(name)
        if source is None or source.group != request.group or name == request.id:
            continue
        tokens = min(common, source.tokens)
        if tokens > most and draft.cuts(source.seq, tokens):
            best, most = source._replace(tokens=tokens), tokens
    return best
