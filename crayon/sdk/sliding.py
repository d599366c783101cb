"""Which turns of a conversation are left out when it does not fit the context any more: the oldest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.messages import Message

# As much of the context is to be free: an answer wants room, and the next turn must not slide again.
FREE_SHARE = 0.25


def oldest_to_drop(history: Sequence[Message], tokens: int, context: int) -> int:
    """Return how many messages at the beginning of a history to leave out: whole turns, from a question to the next.

    Args:
        history: without the system message and the question that is asked.
        tokens: of everything that was to be sent.
        context: how many fit.

    Returns:
        at least one turn, where there is a whole one; else 0.
    """
    characters = sum(message.size for message in history)
    wanted = characters * max(0.0, 1.0 - (1.0 - FREE_SHARE) * context / max(tokens, 1))
    starts = [i for i, message in enumerate(history) if message.role == "user" and i] + [len(history)]
    gone = count = 0
    for start in starts:
        if start - count < 2 or (count and gone >= wanted):  # half a turn is none
            break
        gone += sum(message.size for message in history[count:start])
        count = start
    return count
