"""Calibration: from labelled queries to one rule of who answers, and what is to be expected of it.

For each query the gain of sending it is estimated as P(server right) - P(device right | sure), by profile; it is sent
if that is more than `lam`, 0 or more. So nothing is ever sent where the server is estimated to lose, and one number
sets the thresholds of all profiles jointly: of two queries, the one that gains more goes first, whatever its profile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.errors import InvalidRequestError
from crayon.router.bounds import deferral_floor, fixed_sequence, min_kept, upper_bound
from crayon.router.cases import Case, Priors, distinct_cases
from crayon.router.metrics import ROUNDS, Curve, Interval, bootstrap_accuracy, bootstrap_difference, curve
from crayon.router.rules import ProfileRule, Rules, fit_rules
from crayon.router.targets import Best, MaxDeviceError, MinQuality, ServerShare, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Values: TypeAlias = NDArray[np.float64]

# Nobody gains more than this, so that nothing is sent.
NEVER = 1.0
FOLDS = 5
CURVE_POINTS = 21
_THRESHOLDS = 64
_SEED = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the cases say about a calibration. Accuracies are shares; what could not be measured is None.

    With a promise on device errors all but `cases` and `duplicates` is of the half of the cases kept for testing.

    Args:
        cases: different ones used.
        duplicates: further ones of the same ids, left out.
        server_labelled: cases with an answer of the server; all accuracies but `device` are of those only.
        device: accuracy when nothing is sent, of all cases.
        server: accuracy when everything is sent.
        share: expected share of queries sent.
        accuracy: expected accuracy, of rules fitted on other cases than they are measured on; its interval tells
            what other queries would have given, not what other fits would.
        random: accuracy of sending as many at random.
        gain: `accuracy` minus `random`, paired.
        curve: (share, accuracy) of the router at other shares, out of fold likewise.
        floor: max device error only: what any method has to send at least.
        bound: max device error only: the promised bound on errors among what the device answers.
        notes: what else to know, in words.
    """

    cases: int
    duplicates: int
    server_labelled: int
    device: float
    server: float | None
    share: float
    accuracy: Interval | None
    random: float | None
    gain: Interval | None
    curve: tuple[tuple[float, float], ...] = ()
    floor: float | None = None
    bound: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """Who answers what.

    Args:
        rules: one a profile.
        outside: for queries outside all profiles, or None where there are none.
        lam: a query is sent if it gains more than this.
        tie: share of queries of exactly this gain that are sent too, where many have the same.
        target: what it was made for.
        report: what to expect.
    """

    rules: tuple[ProfileRule, ...]
    outside: ProfileRule | None
    lam: float
    tie: float
    target: Target
    report: Report

    def rule(self, profile: str | None, inside_score: float = 0.0) -> ProfileRule:
        """Return the rule for a query by its closest profile and its scope score minus fitted threshold.

        Raises:
            InvalidRequestError: the profile was not calibrated.
        """
        found = Rules({rule.profile: rule for rule in self.rules}, self.outside).of(profile, inside_score)
        if found is None:
            raise InvalidRequestError("profile", f"{profile!r} was not calibrated; run crayon calibrate")
        return found

    def benefit(self, profile: str | None, inside_score: float = 0.0, sure: float | None = None) -> float:
        """Return the estimated gain of sending a query, from -1 to 1.

        Raises:
            InvalidRequestError: the profile was not calibrated.
        """
        return self.rule(profile, inside_score).benefit_of(sure)

    def sends(self, benefit: float, *, coin: float = 1.0) -> bool:
        """Return whether a query of this gain is sent.

        Args:
            benefit: as `benefit` returns it.
            coin: a number in [0, 1), new for each query, that decides where many queries have the same gain; the
                default keeps all of those on the device.
        """
        return benefit > 0 and (benefit > self.lam or (benefit == self.lam and coin < self.tie))

    def with_lam(self, lam: float) -> Calibration:
        """Return it with another threshold, 0 or more, as the share's keeper sets it.

        Raises:
            InvalidRequestError: it is negative or not a number.
        """
        if not 0 <= lam <= NEVER:
            raise InvalidRequestError("lam", f"must be from 0 to {NEVER}, not {lam!r}")
        outside = self.outside.at(lam) if self.outside else None
        rules = tuple(rule.at(lam) for rule in self.rules)
        return replace(self, rules=rules, outside=outside, lam=lam, tie=0.0)


def calibrate(
    cases: Sequence[Case],
    target: Target | None = None,
    priors: Priors | None = None,
    *,
    profiles: Sequence[str | None] = (),
    rounds: int = ROUNDS,
) -> Calibration:
    """Fit who answers what, from labelled cases.

    Args:
        cases: at least 4 different ones.
        target: `Best()` by default.
        priors: accuracies believed beforehand; they carry profiles of few cases.
        profiles: further profiles to have a rule though they have no case: by the priors alone.
        rounds: of the bootstrap for the report's intervals.

    Raises:
        InvalidRequestError: too few cases, a label that the target needs is missing, or the target is impossible: the
            message says what would be possible.
    """
    target, priors = target or Best(), priors or Priors()
    kept, duplicates = distinct_cases(cases)
    names = list(dict.fromkeys([*(case.profile for case in kept), *profiles]))
    if isinstance(target, MaxDeviceError):
        return _promise(kept, duplicates, target, priors, names, rounds)
    rules = fit_rules(kept, priors, names)
    need, known = _out_of_fold(kept, priors, names), _known(kept)
    benefits = rules.benefits(kept)
    most = float(np.mean(benefits > 0))
    notes: list[str] = []
    if isinstance(target, ServerShare):
        wanted = min(target.share, most)
        if most < target.share:
            notes.append(f"at most {most:.1%} are sent, not {target.share:.1%}: the rest would lose by it")
    elif isinstance(target, MinQuality):
        wanted = _cheapest(target.quality, kept, need, known, most)
    else:
        wanted = most
    lam, tie, share = _threshold(benefits, wanted)
    if len({case.device_right for case in kept}) == 1:
        notes.append("the device was right on all cases or on none: what it is unsure of tells nothing yet")
    report = _report(kept, duplicates, need, known, share, tuple(notes), rounds)
    return _finished(rules, lam, tie, target, report)


def _finished(rules: Rules, lam: float, tie: float, target: Target, report: Report) -> Calibration:
    bare = Calibration(tuple(rules.profiles.values()), rules.outside, lam, tie, target, report)
    return replace(bare.with_lam(lam), tie=tie)


def _threshold(benefits: Values, share: float) -> tuple[float, float, float]:
    """Return lam, the part of ties sent, and the share that results: at most `share`, and only what gains."""
    gains, sizes = np.unique(benefits[benefits > 0], return_counts=True)
    left, sent = share * len(benefits), 0.0
    for i in range(len(gains) - 1, -1, -1):
        if left - sent < 1e-9:  # the last block ended here: half-way to the next
            above = gains[i + 1] if i + 1 < len(gains) else None
            lam = NEVER if above is None else float(gains[i] + above) / 2
            return lam, 0.0, sent / len(benefits)
        if left - sent < sizes[i] - 1e-9:
            return float(gains[i]), float((left - sent) / sizes[i]), share
        sent += float(sizes[i])
    return 0.0, 0.0, sent / len(benefits)


def _folds(cases: Sequence[Case], count: int) -> NDArray[np.int_]:
    """Return the fold of each case, shape (cases,): every profile spread evenly, in a fixed random order."""
    order = np.random.default_rng(_SEED).permutation(len(cases))
    by_profile = sorted(order.tolist(), key=lambda i: (cases[i].profile is not None, cases[i].profile or ""))
    folds = np.empty(len(cases), dtype=np.int_)
    folds[by_profile] = np.arange(len(cases)) % count
    return folds


def _out_of_fold(cases: Sequence[Case], priors: Priors, names: Sequence[str | None]) -> Values:
    """Return how each case ranks by its gain, from rules fitted on the other folds, shape (cases,), from 0 to 1.

    It is the rank within the case's own fold (in a tie the middle one): gains of two folds come from two fits, and what
    one fold has too few of, the other fits have too many of, so that comparing them would be biased.
    """
    folds = _folds(cases, FOLDS)
    ranks = np.empty(len(cases))
    for fold in np.unique(folds):
        rules = fit_rules([c for c, f in zip(cases, folds, strict=True) if f != fold], priors, names)
        own = np.flatnonzero(folds == fold)
        gains = rules.benefits([cases[i] for i in own.tolist()])
        _, place, sizes = np.unique(gains, return_inverse=True, return_counts=True)
        ranks[own] = ((np.cumsum(sizes) - sizes / 2) / len(own))[place]
    return ranks


def _known(cases: Sequence[Case]) -> NDArray[np.int_]:
    return np.flatnonzero([case.server_right is not None for case in cases])


def _curve_of(cases: Sequence[Case], need: Values, known: NDArray[np.int_]) -> tuple[Values, Values, Values]:
    device = np.array([cases[i].device_right for i in known], dtype=np.float64)
    server = np.array([cases[i].server_right for i in known], dtype=np.float64)
    return device, server, need[known]


def _cheapest(quality: float, cases: Sequence[Case], need: Values, known: NDArray[np.int_], most: float) -> float:
    """Return the least share that reaches this part of the server's accuracy."""
    if len(known) < len(cases) / 2 or len(known) < 4:
        raise InvalidRequestError(
            "cases", f"the server answered {len(known)} of {len(cases)}; min_quality compares with it, so ask it more"
        )
    if len({case.device_right for case in cases}) == 1:
        raise InvalidRequestError(
            "cases", "the device was right on all or on none; min_quality needs both kinds, so label more queries"
        )
    routed: Curve = curve(*_curve_of(cases, need, known))
    share = routed.first(quality * routed.server)
    if share is None or share > most + 1e-9:
        at = [*(s for s in routed.share if s <= most), most]
        best = max(routed.at(float(s)) for s in at)
        raise InvalidRequestError(
            "target.min_quality",
            f"{quality:.1%} of the server's accuracy ({routed.server:.1%}) is not reached by sending only what gains; "
            f"at most {best / routed.server:.1%} is",
        )
    return share


def _report(
    cases: Sequence[Case],
    duplicates: int,
    need: Values,
    known: NDArray[np.int_],
    share: float,
    notes: tuple[str, ...],
    rounds: int,
    *,
    floor: float | None = None,
    bound: float | None = None,
) -> Report:
    device = float(np.mean([case.device_right for case in cases]))
    if not len(known):
        return Report(
            cases=len(cases), duplicates=duplicates, server_labelled=0, device=device, server=None, share=share,
            accuracy=None, random=None, gain=None, floor=floor, bound=bound,
            notes=(*notes, "the server answered no case: what it gains is believed, not measured"),
        )  # fmt: skip
    columns = _curve_of(cases, need, known)
    routed = curve(*columns)
    shares = np.linspace(0, 1, CURVE_POINTS)
    return Report(
        cases=len(cases),
        duplicates=duplicates,
        server_labelled=len(known),
        device=device,
        server=routed.server,
        share=share,
        accuracy=bootstrap_accuracy(*columns, share, rounds=rounds),
        random=routed.device + share * (routed.server - routed.device),
        gain=bootstrap_difference(*columns, None, share, rounds=rounds),
        curve=tuple((float(s), routed.at(float(s))) for s in shares),
        floor=floor,
        bound=bound,
        notes=notes,
    )


def _promise(
    cases: Sequence[Case],
    duplicates: int,
    target: MaxDeviceError,
    priors: Priors,
    names: Sequence[str | None],
    rounds: int,
) -> Calibration:
    """Fit on one half of the cases, and test thresholds on the other, which had no part in them."""
    halves = np.random.default_rng(_SEED).permutation(len(cases)) % 2
    fitting = [c for c, half in zip(cases, halves, strict=True) if half == 0]
    testing = [c for c, half in zip(cases, halves, strict=True) if half == 1]
    if any(c.device_right not in (0, 1) for c in testing):
        raise InvalidRequestError("cases", "max_device_error counts errors: device_right must be 0 or 1, not a share")
    delta = 1 - target.confidence
    least = min_kept(target.error, delta)
    if len(testing) < least:
        raise InvalidRequestError(
            "cases",
            f"at most {target.error:.1%} errors with {target.confidence:.0%} confidence needs {2 * least} labelled "
            f"queries or more (half are for fitting), not {len(cases)}",
        )
    rules = fit_rules(fitting, priors, names)
    fitted, tested = rules.benefits(fitting), rules.benefits(testing)
    wrong = np.array([c.device_right == 0 for c in testing])
    floor = deferral_floor(float(wrong.mean()), target.error)
    lams = _strict_to_loose(fitted)
    counts = [(int(np.sum(tested <= lam)), int(np.sum(wrong[tested <= lam]))) for lam in lams]
    expected = np.array([np.mean(fitted <= lam) for lam in lams]) * len(testing)

    def start(error: float) -> int:
        """Return the strictest threshold worth a test: enough kept to pass, judged by the half that is not tested.

        Twice the least count, as one error has to be affordable and the kept count is not known beforehand.
        """
        return int(np.argmax(expected >= min(2 * min_kept(error, delta), len(testing)) - 1e-9))

    first = start(target.error)
    passed = fixed_sequence(counts[first:], target.error, delta)
    if passed is None:
        raise InvalidRequestError("target.max_device_error", _impossible(target, counts, start, floor))
    lam = float(lams[first + passed.index])
    share = float(np.mean(tested > lam))
    note = (
        f"of {passed.kept} queries that the device answered in the half for testing, {passed.errors} were wrong; with "
        f"{target.confidence:.0%} confidence at most {passed.bound:.1%} are"
    )
    report = _report(
        testing, duplicates, tested, _known(testing), share, (note,), rounds, floor=floor, bound=passed.bound
    )
    return _finished(rules, lam, 0.0, target, replace(report, cases=len(cases)))


def _strict_to_loose(benefits: Values) -> Values:
    """Return values of lam from 0, which sends all that gains, to the one that sends nothing, shape (thresholds,)."""
    gains = np.unique(benefits[benefits > 0])
    if len(gains) > _THRESHOLDS:
        gains = np.unique(np.quantile(gains, np.linspace(0, 1, _THRESHOLDS)))
    return np.unique(np.concatenate([[0.0], gains, [NEVER]]))


def _impossible(
    target: MaxDeviceError, counts: Sequence[tuple[int, int]], start: Callable[[float], int], floor: float
) -> str:
    delta = 1 - target.confidence
    bounds = [upper_bound(errors, kept, delta) for kept, errors in counts]
    kept, errors = counts[start(target.error)]
    rates = (cents / 100 for cents in range(1, 100))
    possible = next((rate for rate in rates if rate > target.error and bounds[start(rate)] <= rate), None)
    instead = "label more queries, or customise the device better"
    return (
        f"at most {target.error:.1%} errors with {target.confidence:.0%} confidence cannot be promised: where only "
        f"what gains is sent, {errors} of {kept} tested answers of the device were wrong, which bounds the rate by "
        f"{bounds[start(target.error)]:.1%}. Any method has to send at least {floor:.1%} for it. "
        + (f"From these cases {possible:.2f} can be; else {instead}" if possible else instead.capitalize())
    )
