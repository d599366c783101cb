"""What the engine's sums come to."""

from __future__ import annotations

from crayon.server.engines.llama.counters import Counters, shares


def test_shares_by_hand() -> None:
    """They were once handed on as plain sums, and a bench printed these as shares."""
    sums = Counters(steps=10, tokens=300, room_tokens=1200, planned_ahead=9, wall_s=8.0, compute_s=6.0)
    assert shares(sums.as_json()) == {"host gap": 0.25, "fill": 0.25, "planned ahead": 0.9}


def test_there_is_nothing_to_share_before_the_first_step() -> None:
    assert shares(Counters().as_json()) == {}
