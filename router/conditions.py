"""What the moment says about who should answer: how fast each side was lately, the network, the battery.

An unknown measurement changes nothing. What was decided last holds until the numbers are clearly past the threshold
again, so that a number near it does not make the answers flap between the sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crayon.completion import Reason
from crayon.errors import InvalidRequestError
from crayon.router.language import LANGUAGES

# What was decided holds until a number falls below this part of its threshold (or the battery is above by so many %).
RELEASE = 0.8
BATTERY_RELEASE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When the circumstances of a query have a say in who answers it.

    Args:
        speed: whether measured speed, network and battery have a say; the fields after it are for this.
        slow_seconds: an answer that would take the device longer than this is slow.
        slow_factor: the server is clearly faster if it would be done in one part in so many of that time.
        network_seconds: a round trip to the server longer than this is slow.
        max_loss: a network that lately lost more than this part of the requests (0 to 1) is lossy.
        low_battery: percentage at which a battery is low, unless it is being charged.
        max_prompt_tokens: longer prompts go to the server; None: those that do not fit the device's context.
        device_languages: what the device is good at (ISO 639 codes); a query that is surely in another language goes
            to the server. None of them: no check.

    Raises:
        InvalidRequestError: a number out of range, or a language that cannot be told.
    """

    speed: bool = False
    slow_seconds: float = 10.0
    slow_factor: float = 2.0
    network_seconds: float = 1.0
    max_loss: float = 0.5
    low_battery: float = 20.0
    max_prompt_tokens: int | None = None
    device_languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.speed, bool):
            raise InvalidRequestError("conditions.speed", f"must be True or False, not {self.speed!r}")
        _check("slow_seconds", self.slow_seconds, 0.0, math.inf)
        _check("slow_factor", self.slow_factor, 1.0, math.inf)
        _check("network_seconds", self.network_seconds, 0.0, math.inf)
        _check("max_loss", self.max_loss, 0.0, 1.0)
        _check("low_battery", self.low_battery, 0.0, 100.0)
        most: object = self.max_prompt_tokens
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise InvalidRequestError("conditions.max_prompt_tokens", f"must be 1 or more, or None, not {most!r}")
        given: object = self.device_languages
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise InvalidRequestError("conditions.device_languages", "must be a list of codes such as 'en'")
        for code in given:
            if not isinstance(code, str) or code not in LANGUAGES:
                known = ", ".join(sorted(LANGUAGES))
                raise InvalidRequestError(
                    "conditions.device_languages", f"{code!r} cannot be told from others; these can: {known}"
                )
        object.__setattr__(self, "device_languages", tuple(given))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentSpeed:
    """What was measured lately, rates in tokens a second; None: unknown, or too long ago.

    Args:
        device_prompt_rate: how fast the device reads, for one answer alone on a machine with nothing else to do.
        device_decode_rate: how fast it writes, likewise.
        device_slowdown: how many times as long it takes now, for what other processes compute.
        device_wait_s: how long an answer waited for its turn there.
        device_running: answers that it is writing now.
        server_first_token_s: from sending a request to its first token, as seen from here.
        server_decode_rate: how fast the server's tokens come in.
        round_trip_s: from sending a request to the first sign of the server, its queue not counted.
        server_loss: part of the requests that the network or the server lost, 0 to 1.
        answer_tokens: how long answers are.
        battery_percent: charge of the battery; None: there is none, or the platform does not tell.
        plugged: whether it is being charged.
    """

    device_prompt_rate: float | None = None
    device_decode_rate: float | None = None
    device_slowdown: float = 1.0
    device_wait_s: float | None = None
    device_running: int = 0
    server_first_token_s: float | None = None
    server_decode_rate: float | None = None
    round_trip_s: float | None = None
    server_loss: float | None = None
    answer_tokens: float | None = None
    battery_percent: float | None = None
    plugged: bool | None = None


def device_seconds(now: RecentSpeed, prompt_tokens: int, answer_tokens: float) -> float | None:
    """Return how long the device would take for an answer, or None if its rates are unknown.

    Answers that run at once advance in turn, so each other one that runs makes this one slower by as much again.
    """
    if not now.device_prompt_rate or not now.device_decode_rate:
        return None
    alone = prompt_tokens / now.device_prompt_rate + answer_tokens / now.device_decode_rate
    return (now.device_wait_s or 0.0) + alone * now.device_slowdown * (1 + now.device_running)


def server_seconds(now: RecentSpeed, answer_tokens: float) -> float | None:
    """Return how long the server would take for an answer, or None if that is unknown."""
    if now.server_first_token_s is None or not now.server_decode_rate:
        return None
    return now.server_first_token_s + answer_tokens / now.server_decode_rate


def weigh(
    conditions: Conditions, now: RecentSpeed, *, prompt_tokens: int, max_tokens: int, before: Reason | None = None
) -> Reason | None:
    """Return what speaks for one side: NETWORK_SLOW for the device, DEVICE_SLOW or LOW_BATTERY for the server.

    Args:
        conditions: the thresholds.
        now: the measurements.
        prompt_tokens: about how long the prompt is.
        max_tokens: how long the answer may become; it is expected to be as long as others were.
        before: what was returned last; it holds until the numbers are clearly past their thresholds.
    """
    if not conditions.speed:
        return None
    if _network_slow(conditions, now, _eased(before is Reason.NETWORK_SLOW)):
        return Reason.NETWORK_SLOW
    expected = float(max_tokens) if now.answer_tokens is None else min(float(max_tokens), now.answer_tokens)
    device, server = device_seconds(now, prompt_tokens, expected), server_seconds(now, expected)
    if device is None or server is None:
        return None
    ease = _eased(before is Reason.DEVICE_SLOW)
    # Eased, the factor is never below 1: a server that is slower than the device is no help.
    factor = max(1.0, conditions.slow_factor * ease)
    if device >= conditions.slow_seconds * ease and device >= factor * server:
        return Reason.DEVICE_SLOW
    low = conditions.low_battery + (BATTERY_RELEASE if before is Reason.LOW_BATTERY else 0.0)
    empty = now.battery_percent is not None and now.plugged is False and now.battery_percent <= low
    return Reason.LOW_BATTERY if empty and server <= device else None


def _network_slow(conditions: Conditions, now: RecentSpeed, ease: float) -> bool:
    slow = now.round_trip_s is not None and now.round_trip_s > conditions.network_seconds * ease
    return slow or (now.server_loss is not None and now.server_loss > conditions.max_loss * ease)


def _eased(holds: bool) -> float:  # noqa: FBT001 - one flag, named where it is used
    return RELEASE if holds else 1.0


def _check(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequestError(f"conditions.{name}", f"must be {least:g} to {most:g}, not {value!r}")
