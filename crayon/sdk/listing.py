"""How a larger model is asked to choose: the question with its options listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def listed(question: str, choices: Sequence[str]) -> str:
    """Return the question with its options listed, as a larger model is asked."""
    options = "\n".join(f"- {choice}" for choice in choices)
    return f"{question}\n\nOptions:\n{options}\n\nAnswer with one of the options, and nothing else."
