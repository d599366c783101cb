"""What speaks against the side that the policy prefers; it may reorder what the policy allows, and never add to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.completion import Reason, Source
from crayon.errors import BudgetError
from crayon.router.policy import Allowed

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Facts about one query at one moment.

    Args:
        limit: the setting of the budget that is used up, if one is.
        problem: what to say of it where only the server may answer.
        long: whether the prompt is surely too long for the device.
        foreign: whether the query is surely in a language that the device was not chosen for.
        weighed: what the conditions say, see `weigh`.
    """

    limit: str | None = None
    problem: str = ""
    long: bool = False
    foreign: bool = False
    weighed: Reason | None = None


def under(allowed: Allowed, now: Circumstances) -> Allowed:
    """Return what the policy allows, in the order that the circumstances ask for.

    A used up budget takes the server away. Where both sides may answer: what is too long for the device goes to the
    server; a slow network keeps the rest on the device, whatever a gate would say; then a foreign language, a slow
    device and a low battery speak for the server.

    Raises:
        BudgetError: the budget is used up, and only the server may answer.
    """
    if Source.SERVER in allowed.sources and now.limit is not None:
        if Source.DEVICE not in allowed.sources:
            raise BudgetError(now.limit, now.problem)
        return Allowed((Source.DEVICE,), Reason.BUDGET)
    if len(allowed.sources) == 1:
        return allowed
    if now.long:
        return _to_server(allowed, Reason.LONG)
    if now.weighed is Reason.NETWORK_SLOW:
        return Allowed((Source.DEVICE, Source.SERVER), Reason.NETWORK_SLOW, kept=True)
    if now.foreign:
        return _to_server(allowed, Reason.LANGUAGE)
    if now.weighed in {Reason.DEVICE_SLOW, Reason.LOW_BATTERY}:
        return _to_server(allowed, now.weighed)
    return allowed


def is_foreign(possible: Collection[str], device_languages: Collection[str]) -> bool:
    """Whether none of the languages that a query may be in is one of the device's; unknown ones are not foreign."""
    return bool(device_languages) and bool(possible) and not set(possible) & set(device_languages)


def likely_tokens(characters: int) -> int:
    """Return about how many tokens a text of so many characters has."""
    return -(-characters // 4)


def least_tokens(text: str) -> int:
    """Return how many tokens a text has at least, whatever the model: no token spans two words."""
    return len(text.split())


def _to_server(allowed: Allowed, reason: Reason) -> Allowed:
    # Where the server comes first anyway, it is the mode that says so.
    return allowed if allowed.sources[0] is Source.SERVER else Allowed((Source.SERVER, Source.DEVICE), reason)
