"""What a calibration aims at; docs/explanation/routing.md tells what each one promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from crayon.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Best:
    """No target: send wherever the server is estimated to be the better one."""


@dataclass(frozen=True, slots=True)
class ServerShare:
    """Send this share of queries, from 0 to 1, those that gain most; less where the rest would lose.

    Raises:
        InvalidRequestError: it is no share.
    """

    share: float

    def __post_init__(self) -> None:
        _check("target.server_share", self.share, ends=True)


@dataclass(frozen=True, slots=True)
class MinQuality:
    """Reach this part of the server's accuracy, above 0 and at most 1, with as few queries sent as possible.

    Raises:
        InvalidRequestError: it is no such part.
    """

    quality: float

    def __post_init__(self) -> None:
        _check("target.min_quality", self.quality, ends=True)
        if self.quality == 0:
            raise InvalidRequestError("target.min_quality", "must be above 0; pass 0.95 for 95 %")


@dataclass(frozen=True, slots=True)
class MaxDeviceError:
    """Of the answers that the device gives, at most this share is wrong, with this confidence.

    Raises:
        InvalidRequestError: either is not between 0 and 1.
    """

    error: float
    confidence: float = 0.9

    def __post_init__(self) -> None:
        _check("target.max_device_error", self.error, ends=False)
        _check("target.confidence", self.confidence, ends=False)


Target: TypeAlias = Best | ServerShare | MinQuality | MaxDeviceError


def _check(name: str, value: object, *, ends: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (0 < value < 1 or (ends and value in (0, 1))):  # type: ignore[operator] # a number, seen above
        return
    raise InvalidRequestError(name, f"must be {'from 0 to' if ends else 'between 0 and'} 1, not {value!r}")
