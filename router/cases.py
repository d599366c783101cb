"""What a calibration is fitted on: labelled queries as numbers, and what was believed before them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crayon.router.device_map import CurvePrior

MIN_CASES = 4
_NO_PROFILES: Mapping[str | None, Prior] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One query that was answered: what the gates saw of it, and who was right.

    Args:
        profile: the closest profile (or scope); None for a user without any.
        inside_score: its scope score minus its fitted threshold, 0 or more inside. Of no meaning without a profile.
        sure: the hardness signal, higher for surer; None or NaN where the device did not decode.
        device_right: whether the device's answer was right (0, 1 or a share), given as it would be at the fitted
            threshold: blended inside, by the plain base outside.
        server_right: likewise for the server's; None where it was not asked. Where nothing is labelled and the
            server's answers stand in for the truth, it is 1 and `device_right` is the agreement with them.
        own: whether the query truly belongs to the profile's task; None if nobody knows.
        id: which query this is; further cases of one id are left out. None is never the same as another.

    Raises:
        InvalidRequestError: a score is NaN or infinite, or a label outside [0, 1].
    """

    profile: str | None = None
    inside_score: float = 0.0
    sure: float | None = None
    device_right: float
    server_right: float | None = None
    own: bool | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if self.profile is not None and (not isinstance(self.profile, str) or not self.profile):
            raise InvalidRequestError("case.profile", f"must be a name or None, not {self.profile!r}")
        if not _number(self.inside_score) or not math.isfinite(self.inside_score):
            raise InvalidRequestError("case.inside_score", f"must be a finite number, not {self.inside_score!r}")
        if self.sure is not None and not _number(self.sure):
            raise InvalidRequestError("case.sure", f"must be a number or None, not {self.sure!r}")
        if self.sure is not None and math.isnan(self.sure):
            object.__setattr__(self, "sure", None)
        if not _number(self.device_right) or not 0 <= self.device_right <= 1:
            raise InvalidRequestError("case.device_right", f"must be 0, 1 or a share, not {self.device_right!r}")
        if self.server_right is not None and (not _number(self.server_right) or not 0 <= self.server_right <= 1):
            raise InvalidRequestError("case.server_right", f"must be 0, 1, a share or None, not {self.server_right!r}")


@dataclass(frozen=True, slots=True)
class Prior:
    """A Beta distribution of an accuracy before any case: as if so many right and wrong answers had been seen.

    Raises:
        InvalidRequestError: a count is not a positive number.
    """

    right: float = 1.0
    wrong: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("right", self.right), ("wrong", self.wrong)):
            if not _number(value) or not 0 < value < math.inf:
                raise InvalidRequestError(f"prior.{name}", f"must be a number above 0, not {value!r}")

    def mean(self, right: float = 0.0, n: int = 0) -> float:
        """Return the posterior mean after `right` of `n` answers were right: (a + right) / (a + b + n)."""
        return (self.right + right) / (self.right + self.wrong + n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """What is believed of accuracies before any case.

    Args:
        device: the device inside a profile, or without one.
        server: the server there.
        outside_device: the plain base outside all profiles.
        outside_server: the server there.
        profiles: the server's accuracy on some profiles, in place of `server`.
        curve: how the device's accuracy inside goes with the signal that cases carry; None: nothing is believed of it.
    """

    device: Prior = field(default_factory=Prior)
    server: Prior = field(default_factory=Prior)
    outside_device: Prior = field(default_factory=Prior)
    outside_server: Prior = field(default_factory=Prior)
    profiles: Mapping[str | None, Prior] = field(default_factory=lambda: _NO_PROFILES)
    curve: CurvePrior | None = None


def distinct_cases(cases: Sequence[Case]) -> tuple[list[Case], int]:
    """Return the first case of each id, and how many others were left out.

    Raises:
        InvalidRequestError: fewer than 4 are left.
    """
    seen: set[str] = set()
    kept = []
    for case in cases:
        if case.id is None or case.id not in seen:
            kept.append(case)
        if case.id is not None:
            seen.add(case.id)
    if len(kept) < MIN_CASES:
        raise InvalidRequestError(
            "cases", f"needs at least {MIN_CASES} different ones, not {len(kept)}; label more queries"
        )
    return kept, len(cases) - len(kept)


def _number(value: object) -> bool:
    return isinstance(value, int | float)
