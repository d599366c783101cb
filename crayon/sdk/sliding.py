"""Which turns of a conversation are left out when it does not fit the context any more: the oldest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.messages import Message

# As much of the context is to be free: an answer wants room, and the next turn must not slide again.
FREE_SHARE = 0.25


def oldest_to_drop(history: Sequence[Message], tokens: int, context: int) -> int:
    """Return how many messages at the beginning of a history to leave out: whole turns, two messages each.

    Args:
        history: user and assistant in turn, without the system message and the question that is asked.
        tokens: of everything that was to be sent.
        context: how many fit.

    Returns:
        at least 2, where there is a whole turn; else 0.
    """
    characters = sum(len(message.content) for message in history)
    wanted = characters * max(0.0, 1.0 - (1.0 - FREE_SHARE) * context / max(tokens, 1))
    gone = count = 0
    while count + 2 <= len(history) and (count == 0 or gone < wanted):
        gone += sum(len(message.content) for message in history[count : count + 2])
        count += 2
    return count
