"""Whose blend runs: groups take turns (deficit round-robin, with a step's tokens as the packet).

A group's turn lasts until it has computed `limits.quantum` tokens, or has nothing left to do; 0 is one step. Then the
group that has waited longest is next. At most `limits.max_blends` turns run side by side, encoding alone: it begins
when those that run are over.

Bounds: with G groups, one waits for at most the turns of the G - 1 others, each of which takes at most
`max(1, quantum)` steps, because every step of a turn computes at least one token of its group, and at most
`quantum - 1 + max_tokens` tokens. Turns that end with work left are at most one for each `quantum` tokens computed,
so the engine changes blends no more often than that, beside what it changes within a step for `max_blends` > 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crayon.server.scheduler.state import State
    from crayon.server.steps.limits import StepLimits
    from crayon.server.steps.request import Request
    from crayon.server.steps.step_plan import Group


def choose_blends(
    running: Iterable[Request], state: State, limits: StepLimits
) -> tuple[list[Group], tuple[Group, ...]]:
    """Return the groups of this step, and which of them begin their turn."""
    present = dict.fromkeys([request.group for request in running])
    if len(present) < 2:
        groups = list(present)
        return groups, tuple(group for group in groups if state.spent.get(group, 0) >= limits.quantum)
    served, last = state.served, state.step - 1
    # A new group queues behind the old ones.
    line = sorted(present, key=lambda group: served.get(group, last))
    held = [group for group in line if served.get(group) == last and 0 < state.spent.get(group, 0) < limits.quantum]
    line = [group for group in line if group not in held]
    if any(encode for _, encode in held):
        return held, ()
    if line and line[0][1]:
        return (held, ()) if held else (line[:1], (line[0],))
    fresh = [group for group in line if not group[1]][: max(0, limits.max_blends - len(held))]
    return held + fresh, tuple(fresh)
