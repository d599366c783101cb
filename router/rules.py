"""What is known of each profile: how likely the device is right there, and the server, fitted from cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.router.device_map import DeviceMap, fit_device_map

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crayon.router.cases import Case, Prior, Priors
    from crayon.router.device_map import CurvePrior

# So many queries of a task, and so many others, before a scope is moved.
MIN_OWN = 8


@dataclass(frozen=True, slots=True)
class ProfileRule:
    """What a router knows of one profile, or of what is outside all of them.

    Args:
        profile: its name, or None without profiles and outside.
        scope: what is inside has a scope score minus fitted threshold of at least this.
        device: P(device right | sure).
        server: the server's accuracy (posterior mean).
        server_n: how many of the server's answers that rests on; 0 is the prior alone.
        hardness: the device answers at or above this `sure`; None where the signal decides nothing: then all
            queries go where `benefit` says.
    """

    profile: str | None
    scope: float
    device: DeviceMap
    server: float
    server_n: int
    hardness: float | None = None

    @property
    def benefit(self) -> float:
        """Estimated gain of sending a query whose signal is missing: server minus device."""
        return self.server - self.device.mean

    def benefit_of(self, sure: float | None) -> float:
        """Return the estimated gain of sending a query: P(server right) - P(device right | sure)."""
        return self.server - self.device.right(sure)

    def at(self, lam: float) -> ProfileRule:
        """Return the rule with the hardness threshold that sends what gains more than `lam`."""
        hardness = self.device.sure_at(self.server - lam)
        return ProfileRule(self.profile, self.scope, self.device, self.server, self.server_n, hardness)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of all profiles, and `outside` for queries in none of them (None where there is no profile)."""

    profiles: Mapping[str | None, ProfileRule]
    outside: ProfileRule | None

    def of(self, profile: str | None, inside_score: float) -> ProfileRule | None:
        """Return the rule for a query, or None: its profile was not calibrated."""
        rule = self.profiles.get(profile)
        if rule is None or profile is None or inside_score >= rule.scope:
            return rule
        return self.outside

    def benefits(self, cases: Sequence[Case]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the estimated gain of sending each case, shape (cases,); a profile without rule gains nothing."""
        rules = [self.of(case.profile, case.inside_score) for case in cases]
        return np.array([r.benefit_of(c.sure) if r else 0.0 for r, c in zip(rules, cases, strict=True)])


def fit_rules(cases: Sequence[Case], priors: Priors, profiles: Sequence[str | None]) -> Rules:
    """Fit the rule of every profile in `profiles`, and of what is outside; priors stand where there are no cases."""
    scopes = {name: _fit_scope([c for c in cases if c.profile == name]) for name in profiles if name is not None}
    outside = [c for c in cases if c.profile is not None and c.inside_score < scopes[c.profile]]
    gone = {id(case) for case in outside}
    rules: dict[str | None, ProfileRule] = {}
    for name in profiles:
        inside = [c for c in cases if c.profile == name and id(c) not in gone]
        server = priors.profiles.get(name, priors.server)
        rules[name] = _fit_rule(
            name, 0.0 if name is None else scopes[name], inside, priors.device, server, priors.curve
        )
    if not scopes:
        return Rules(rules, None)
    return Rules(rules, _fit_rule(None, 0.0, outside, priors.outside_device, priors.outside_server))


def _fit_rule(
    name: str | None,
    scope: float,
    cases: Sequence[Case],
    device: Prior,
    server: Prior,
    curve: CurvePrior | None = None,
) -> ProfileRule:
    answered = [c.server_right for c in cases if c.server_right is not None]
    fitted = fit_device_map([c.sure for c in cases], [c.device_right for c in cases], device, curve)
    return ProfileRule(name, scope, fitted, server.mean(sum(answered), len(answered)), len(answered))


def _fit_scope(cases: Sequence[Case]) -> float:
    """Return how far to move a scope's threshold: to the largest sum of own queries let in and others kept out.

    (Youden's index; of equal places the nearest to the fitted one.) 0, the fitted one, with fewer than 8 of either.
    """
    own = np.array([c.inside_score for c in cases if c.own is True])
    others = np.array([c.inside_score for c in cases if c.own is False])
    if min(len(own), len(others)) < MIN_OWN:
        return 0.0
    scores = np.unique(np.concatenate([own, others]))
    places = np.concatenate([[0.0], (scores[1:] + scores[:-1]) / 2])
    index = (own >= places[:, np.newaxis]).mean(axis=1) - (others >= places[:, np.newaxis]).mean(axis=1)
    best = np.flatnonzero(index >= index.max() - 1e-12)
    return float(places[best[np.argmin(np.abs(places[best]))]])
