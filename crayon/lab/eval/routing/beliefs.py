"""From tuning traffic to what a calibration believes beforehand: the numbers of `crayon/data/priors.toml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.router.logistic import fit_logistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.lab.eval.routing.decide import Routed
    from crayon.lab.eval.routing.traffic import User

    Values: TypeAlias = NDArray[np.float64]
    Results: TypeAlias = Sequence[tuple[User, Sequence[Routed]]]

# A prior is worth at least and at most so many answers: few users tell little of how much users differ.
LEAST, MOST = 4.0, 40.0
_ROUNDS = 4
_START_SD = 2.0
# Deviations between users are not taken to be smaller than this: a handful of users can agree by chance.
_LEAST_SD = 1.0
_FEW = 8


def toml(results: Results, device: str, server: str) -> str:
    """Return the entry of a pair of models for `priors.toml`, as measured on these users."""
    parts = [(one.let_in, one.device, one.server, one.sure) for _, draws in results for one in draws]
    counts = {
        "device_inside": [own[let_in] for let_in, own, _, _ in parts],
        "server_inside": [their[let_in] for let_in, _, their, _ in parts],
        "device_outside": [own[~let_in] for let_in, own, _, _ in parts],
        "server_outside": [their[~let_in] for let_in, _, their, _ in parts],
    }
    lines = ["[[pairs]]", f'device = "{device}"', f'server = "{server}"']
    for name, groups in counts.items():
        right, wrong = beta([group for group in groups if len(group)])
        lines.append(f"{name} = {{ right = {right:.1f}, wrong = {wrong:.1f} }}")
    slope, intercept = curve([(sure[let_in], own[let_in]) for let_in, own, _, sure in parts])
    lines.append(
        f'device_curve = {{ signal = "margin", slope = {slope[0]:.2f}, slope_sd = {slope[1]:.2f}, '
        f"intercept = {intercept[0]:.2f}, intercept_sd = {intercept[1]:.2f} }}"
    )
    return "\n".join(lines) + "\n"


def beta(groups: Sequence[Values]) -> tuple[float, float]:
    """Return the counts of a Beta distribution of users' accuracies, by their mean and variance.

    Args:
        groups: who was right, 1 or 0, one array a user and draw, none empty.
    """
    means = np.array([group.mean() for group in groups])
    mean = float(np.clip(means.mean(), 0.02, 0.98))
    # What the means differ by because users are different, and not because each answered few queries.
    by_chance = float(np.mean([mean * (1 - mean) / len(group) for group in groups]))
    between = max(float(means.var()) - by_chance, 1e-9)
    strength = float(np.clip(mean * (1 - mean) / between - 1, LEAST, MOST))
    return mean * strength, (1 - mean) * strength


def curve(groups: Sequence[tuple[Values, Values]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return mean and standard deviation, over users, of slope and intercept of P(right | sure).

    Each user's curve is fitted under the prior that all users make, which is then made again from their curves (a few
    rounds of empirical Bayes).

    Args:
        groups: (sure, right) of each user and draw.
    """
    usable = [(np.column_stack([sure, np.ones(len(sure))]), right) for sure, right in groups if len(sure) >= _FEW]
    if not usable:
        return (1.0, _START_SD), (0.0, _START_SD)
    everything = np.concatenate([columns for columns, _ in usable])
    centre = fit_logistic(everything, np.concatenate([right for _, right in usable]), np.full(2, 0.01))
    deviation = np.full(2, _START_SD)
    for _ in range(_ROUNDS):
        fits = np.array([fit_logistic(columns, right, deviation**-2, centre) for columns, right in usable])
        centre = fits.mean(axis=0)
        deviation = np.maximum(fits.std(axis=0), _LEAST_SD)
    return (max(float(centre[0]), 0.0), float(deviation[0])), (float(centre[1]), float(deviation[1]))
