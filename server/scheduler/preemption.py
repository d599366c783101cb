"""Room for the coming step when the cache is fuller than was predicted.

Idle prefixes go first, the one unused for longest before the others. Then the generating request that was admitted
last is saved outside the cache and taken out of it, and the next one, until every answer being written gets its
next token and the oldest generating request, where it still reads its prompt, at least one.

Progress: those spilled are always the youngest, and they come back in order of admission before anybody new is let
in, so the oldest generating request is never spilled for another. Alone it fits (`Request.ever_fits`), and what is
not generating has its worst case set aside and ends by itself. So the oldest that is not complete computes at least
one token whenever its group runs, and all requests finish one after the other, each token computed once. One that
came back is beside others that may all write `occupancy.LEAST_GROWTH` tokens more, or end, before it is spilled
again: so many tokens, at least, are written for each time that it is saved and loaded.

Answers are spilled for clients without a sequence, too: see `place`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.steps.step_plan import Spill

if TYPE_CHECKING:
    from crayon.server.scheduler.draft import Draft


def make_room(draft: Draft) -> list[Spill]:
    """Spill until the coming step fits."""
    spills: list[Spill] = []
    generating = draft.generating
    need = sum(1 for request in generating if request.generated)
    while generating and draft.room < need + (not generating[0].generated) and draft.limits.spill:
        request = draft.spill(generating[-1])
        need -= request.generated > 0
        spills.append(Spill(request.id, request.slots[0].seq))
    return spills
