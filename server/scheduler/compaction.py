"""Sequences that move together, where an engine computes neighbours at once and pays for gaps between them.

When an answer ends and nobody waits for its sequence, a gap is left. The answer with the highest sequence moves into
the lowest gap: its cells are copied once, instead of bridging the gap in every step to come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crayon.server.steps.request import Kind, Slot
from crayon.server.steps.step_plan import KvOp

if TYPE_CHECKING:
    from crayon.server.scheduler.state import State

# To copy a token's cells takes about a 50th of what computing a row of nothing does (SmolLM2-135M on 2 cores); half of
# that, since an answer may end before its time.
TOKENS_PER_ROW = 25


class Move(NamedTuple):
    """A request goes on in another sequence: `kv` copies its cells and empties the old ones."""

    request: str
    seq: int
    kv: tuple[KvOp, KvOp]


def find_move(state: State) -> Move | None:
    """Return the move that closes the lowest gap, if there is one that pays; the state is between two steps."""
    if len(state.waiting) or state.spilled:
        return None  # they take the gaps
    used = {slot.seq for request in state.running.values() for slot in request.slots}
    if len(used) < 2 or max(used) - min(used) == len(used) - 1:
        return None
    last = max(state.running.values(), key=lambda request: max(slot.seq for slot in request.slots))
    left = last.max_tokens - last.generated
    if last.kind is not Kind.GENERATE or not last.decoding or last.computed > TOKENS_PER_ROW * left:
        return None
    source = last.slots[0].seq
    gap = next((seq for seq in range(min(used) + 1, source) if seq not in used and seq not in state.idle), None)
    if gap is None:
        return None
    return Move(last.id, gap, (KvOp(gap, source, last.computed), KvOp(source, source, 0)))


def book(state: State, move: Move) -> None:
    """Bring `state` to after a move that the engine has made."""
    for op in move.kv:
        state.cells.apply(op)
    # What had ended in the gap was emptied by the copy: the next plan must not empty it again.
    state.released = [op for op in state.released if op.seq != move.seq]
    state.get(move.request).slots = [Slot(move.seq)]
