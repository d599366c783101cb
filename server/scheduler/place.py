"""A sequence for a client that has none: a client that holds several gives one up.

A client that waits for an answer and has no sequence at all is let in before those that were spilled come back, as long
as their clients have some. Where no sequence is free, the youngest answers of whoever holds most, two at least, are
spilled for it. So who holds sequences keeps one, and who has none waits for a step
and not for an answer's end; it costs one saving and loading a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.steps.request import Kind
from crayon.server.steps.step_plan import Spill

if TYPE_CHECKING:
    from collections.abc import Collection

    from crayon.server.scheduler.admission import CacheForecast
    from crayon.server.scheduler.draft import Draft
    from crayon.server.scheduler.state import State
    from crayon.server.steps.request import Request


def who_has_none(draft: Draft, state: State, gone: Collection[str]) -> Request | None:
    """Return the request to let in for having no sequence; None: there is none, or the usual order will do."""
    if not draft.limits.spill or not len(state.waiting) or not (state.spilled or not (draft.free or draft.idle)):
        return None
    held = {request.client for request in draft.running}
    if any(item.client not in held for item in state.spilled.values() if item.id not in gone):
        return None
    poor = next((item for item in state.waiting.heads(gone) if item.client not in held), None)
    return poor if poor is not None and poor.kind is Kind.GENERATE else None


def make_place(draft: Draft, forecast: CacheForecast, poor: Request) -> list[Spill]:
    """Spill until a sequence is free that `poor` fits; nothing, where there is one or that would not be enough."""
    if draft.free or draft.idle or not draft.generating:
        return []
    held: dict[str, int] = {}
    for request in draft.running:
        held[request.client] = held.get(request.client, 0) + len(request.slots)
    richest = max(held, key=lambda client: held[client])
    theirs = [item for item in draft.generating if item.client == richest and item.computed]
    theirs = theirs[1 - held[richest] :] if held[richest] > 1 else []
    if draft.room + sum(item.computed - item.shared for item in theirs) < poor.least:
        return []
    spills: list[Spill] = []
    while theirs and not (spills and forecast.fits(poor, poor.least)):
        request = draft.spill(theirs.pop())
        forecast.forget()
        spills.append(Spill(request.id, request.slots[0].seq))
    return spills
