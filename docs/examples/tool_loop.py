"""A model that calls functions: what it asked for, what it was told, and what stays here. Needs no server."""

from __future__ import annotations

from datetime import date
from typing import Literal

from crayon import Crayon

OPENS = {"museum": "10:00", "pool": "7:30", "library": "9:00"}


def opening_hours(place: Literal["museum", "pool", "library"]) -> str:
    """Return when a place opens."""
    return f"The {place} opens at {OPENS[place]}."


def visits(place: Literal["museum", "pool", "library"]) -> list[date]:
    """Return on which days the user went to a place."""
    return [date(2026, 11, 3), date(2026, 11, 19)] if place == "pool" else []


with Crayon(max_tokens=60) as crayon:
    # Whether a small model calls is a matter of luck; that it calls what there is, with what fits, is not.
    run = crayon.run_tools(
        "When does the museum open?",
        [opening_hours, visits],
        tool_choice="opening_hours",  # in the first round
        private_results=["visits"],  # once it was called, nothing goes to a server any more
        max_rounds=3,
    )
    for message in run.messages:
        for call in message.tool_calls:
            print(f"{call.name}({call.arguments})")
        if message.role == "tool":
            print(f"  = {message.content}")
    print(run)
    print(f"-- {run.rounds} rounds, {run.stopped}, from the {run.completion.route.source}")
