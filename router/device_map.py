"""From how sure the device was to how likely it was right.

Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines", with the smoothed targets of its
section 2.2): a logistic curve of two parameters. It never falls, has a weak prior against steep slopes, and is a
constant where there are too few cases, or only right or only wrong ones, to tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import InvalidRequestError
from crayon.router.logistic import fit_logistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.router.cases import Prior

MIN_DECODED = 8
# Of the slope per standard deviation of the signal: a normal prior of standard deviation 3.
_SLOPE_PRIOR = 1 / 9


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """P(device right | sure) = 1 / (1 + exp(-(slope * sure + intercept))).

    Args:
        slope: 0 or more; 0 where the signal tells nothing.
        intercept: of the logistic; unused with a slope of 0.
        mean: the device's accuracy over all cases (posterior mean), for queries whose signal is missing.
        n: how many cases it was fitted on.
    """

    slope: float
    intercept: float
    mean: float
    n: int

    def right(self, sure: float | None) -> float:
        """Return the chance, from 0 to 1, that the device is right; the mean if `sure` is None or NaN."""
        if sure is None or math.isnan(sure) or self.slope == 0:
            return self.mean
        x = self.slope * sure + self.intercept
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0

    def sure_at(self, right: float) -> float | None:
        """Return the signal at which the device is right with this chance; None if no signal is."""
        if self.slope == 0 or not 0 < right < 1:
            return None
        return (math.log(right) - math.log1p(-right) - self.intercept) / self.slope


@dataclass(frozen=True, slots=True)
class CurvePrior:
    """What is believed of the curve before any case: independent normal distributions of its two parameters.

    It is measured for a pair of models and one signal; with it a few cases only move the curve, as far as they tell.

    Raises:
        InvalidRequestError: the slope is negative, a deviation is not above 0, or a number is not finite.
    """

    slope: float
    slope_sd: float
    intercept: float
    intercept_sd: float

    def __post_init__(self) -> None:
        for name, least in (("slope", 0.0), ("slope_sd", 1e-6), ("intercept", -math.inf), ("intercept_sd", 1e-6)):
            value = getattr(self, name)
            if not math.isfinite(value) or value < least:
                raise InvalidRequestError(f"curve.{name}", f"must be a number of {max(least, -1e9):g} or more")


def fit_device_map(
    sure: Sequence[float | None], right: Sequence[float], prior: Prior, curve: CurvePrior | None = None
) -> DeviceMap:
    """Fit the map of one profile.

    Args:
        sure: the signal of each case, None where not decoded; minus infinity counts as the least finite one.
        right: whether the device was right (0, 1 or a share), of the same length.
        prior: of the accuracy; it shapes the mean, not the slope.
        curve: of the curve; without one, few cases make a constant.
    """
    mean = prior.mean(sum(right), len(right))
    decoded = [(s, r) for s, r in zip(sure, right, strict=True) if s is not None]
    constant = DeviceMap(0.0, 0.0, mean, len(right))
    x = np.array([s for s, _ in decoded], dtype=np.float64)
    y = np.array([r for _, r in decoded], dtype=np.float64)
    finite = x[np.isfinite(x)]
    if curve is not None:
        return _with_prior(np.clip(x, finite.min(), finite.max()) if len(finite) else x[:0], y, mean, len(right), curve)
    if len(x) < MIN_DECODED or not 0 < y.sum() < len(y) or not len(finite):
        return constant
    x = np.clip(x, finite.min(), finite.max())
    centre, spread = float(x.mean()), float(x.std())
    if spread < 1e-9 * max(1.0, abs(centre)):
        return constant
    rights = float(y.sum())
    high, low = (rights + 1) / (rights + 2), 1 / (len(y) - rights + 2)
    columns = np.column_stack([(x - centre) / spread, np.ones(len(x))])
    slope, intercept = fit_logistic(columns, y * high + (1 - y) * low, np.array([_SLOPE_PRIOR, 0.0])).tolist()
    if slope <= 0:
        return constant
    return DeviceMap(slope / spread, intercept - slope * centre / spread, mean, len(right))


def _with_prior(
    x: NDArray[np.float64], right: NDArray[np.float64], mean: float, n: int, curve: CurvePrior
) -> DeviceMap:
    """Return the most likely curve under the prior (no smoothed targets: the prior keeps it from the extremes)."""
    columns = np.column_stack([x, np.ones(len(x))])
    penalty = np.array([curve.slope_sd**-2, curve.intercept_sd**-2])
    centre = np.array([curve.slope, curve.intercept])
    slope, intercept = fit_logistic(columns, right[: len(x)], penalty, centre).tolist()
    return DeviceMap(slope, intercept, mean, n) if slope > 0 else DeviceMap(0.0, 0.0, mean, n)
