"""Several signals as one: a small logistic regression of whether sending a query pays.

Its target is "device wrong and server right", not "device wrong": what nobody gets right is not worth sending.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import ConfigError, InvalidRequestError
from crayon.router import strict
from crayon.router.logistic import fit_logistic
from crayon.router.signals import DEFAULT_TEXT, SIGNALS, check_signal, signal_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.router.features import Features

MIN_CASES = 16
# Beyond so many standard deviations a signal says no more.
_FAR = 8.0


@dataclass(frozen=True, slots=True)
class Combiner:
    """A logistic regression over named signals, each made to mean 0 and standard deviation 1.

    A signal that is missing from a query takes the standardised value of `mean_logprob`, if that is one of the
    signals and was measured; else 0, its mean. So with everything else missing `mean_logprob` alone decides.

    Args:
        signals: names, each once.
        mean: of each signal, shape (signals,).
        scale: standard deviation of each, above 0.
        weights: of each standardised signal.
        bias: added to their sum.

    Raises:
        ConfigError: an unknown or repeated signal, sizes that differ, or a number out of range.
    """

    signals: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        if not self.signals or len(set(self.signals)) < len(self.signals):
            raise ConfigError("combiner.signals", "must be names, each once")
        for name in self.signals:
            if name not in SIGNALS:
                raise ConfigError("combiner.signals", f"{name!r} is none of {', '.join(SIGNALS)}")
        for field, values in (("mean", self.mean), ("scale", self.scale), ("weights", self.weights)):
            if len(values) != len(self.signals):
                raise ConfigError(f"combiner.{field}", f"has {len(values)} numbers for {len(self.signals)} signals")
            for value in values:
                strict.number(value, f"combiner.{field}")
        if min(self.scale) <= 0:
            raise ConfigError("combiner.scale", "must be above 0")
        strict.number(self.bias, "combiner.bias")

    def need(self, features: Features) -> float:
        """Return the chance, from 0 to 1, that the device is wrong and the server right."""
        return 1 / (1 + math.exp(self.sure(features)))

    def sure(self, features: Features) -> float:
        """Return the log-odds against `need`, higher for surer: a signal like any other, for the calibration."""
        z = {name: self._standard(i, signal_value(name, features)) for i, name in enumerate(self.signals)}
        stand_in = z.get(DEFAULT_TEXT)
        total = self.bias
        for name, weight in zip(self.signals, self.weights, strict=True):
            value = z[name]
            if value is None:
                value = 0.0 if stand_in is None else stand_in
            total += weight * value
        return -min(max(total, -500.0), 500.0)

    def _standard(self, i: int, value: float | None) -> float | None:
        return None if value is None else min(max((value - self.mean[i]) / self.scale[i], -_FAR), _FAR)

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Combiner:
        """Return the combiner that `to_json` wrote.

        Raises:
            ConfigError: it is not that: a field is missing, unknown, of another type or out of range.
        """
        return cls.from_dict(strict.read_json(text, "combiner"))

    @classmethod
    def from_dict(cls, data: object) -> Combiner:
        """Return the combiner of an object read from JSON.

        Raises:
            ConfigError: as `from_json`.
        """
        fields = strict.mapping(data, "combiner", cls.__slots__)
        lists = {name: strict.items(fields[name], f"combiner.{name}", 64) for name in cls.__slots__[:-1]}
        return cls(
            signals=tuple(strict.text(name, "combiner.signals") for name in lists["signals"]),
            mean=tuple(strict.number(value, "combiner.mean") for value in lists["mean"]),
            scale=tuple(strict.number(value, "combiner.scale") for value in lists["scale"]),
            weights=tuple(strict.number(value, "combiner.weights") for value in lists["weights"]),
            bias=strict.number(fields["bias"], "combiner.bias"),
        )


def fit_combiner(
    features: Sequence[Features],
    device_right: Sequence[float],
    server_right: Sequence[float],
    signals: Sequence[str],
    *,
    strength: float = 1.0,
) -> Combiner:
    """Fit a combiner on labelled queries.

    Args:
        features: of each query, shape (n,), 16 or more.
        device_right: 0, 1 or a share, shape (n,).
        server_right: likewise.
        signals: names; each measured on at least half of the queries, and not always the same.
        strength: one over the variance of the weights' normal prior (of mean 0), above 0.

    Raises:
        InvalidRequestError: too few queries, sizes that differ, a label outside [0, 1], sending pays always or never,
            or a signal that is unknown, rarely measured or constant.
    """
    n = len(features)
    if n < MIN_CASES or len(device_right) != n or len(server_right) != n:
        raise InvalidRequestError("features", f"must be {MIN_CASES} or more, as many as labels on each side")
    device, server = np.asarray(device_right, dtype=np.float64), np.asarray(server_right, dtype=np.float64)
    for name, labels in (("device_right", device), ("server_right", server)):
        if not ((labels >= 0) & (labels <= 1)).all():
            raise InvalidRequestError(name, "must be 0, 1 or shares")
    if not 0 < strength < math.inf:
        raise InvalidRequestError("strength", f"must be above 0, not {strength!r}")
    target = (1 - device) * server
    if not 0 < target.sum() < n:
        raise InvalidRequestError("device_right", "sending pays always or never; a combiner needs both kinds")
    if not signals or len(set(signals)) < len(signals):
        raise InvalidRequestError("signals", "must be names, each once")
    measured = [_measure(name, features) for name in signals]
    first = Combiner(
        signals=tuple(signals),
        mean=tuple(mean for mean, _ in measured),
        scale=tuple(scale for _, scale in measured),
        weights=(0.0,) * len(signals),
        bias=0.0,
    )
    columns = np.column_stack([_column(first, i, features) for i in range(len(signals))] + [np.ones(n)])
    fitted = fit_logistic(columns, target, np.array([strength] * len(signals) + [0.0])).tolist()
    return Combiner(first.signals, first.mean, first.scale, tuple(fitted[:-1]), fitted[-1])


def _measure(name: str, features: Sequence[Features]) -> tuple[float, float]:
    check_signal(name)
    found = [value for f in features if (value := signal_value(name, f)) is not None and math.isfinite(value)]
    if 2 * len(found) < len(features):
        raise InvalidRequestError("signals", f"{name} was measured on {len(found)} of {len(features)}; leave it out")
    mean, scale = float(np.mean(found)), float(np.std(found))
    if scale < 1e-9 * max(1.0, abs(mean)):
        raise InvalidRequestError("signals", f"{name} is always {mean:.4g}; leave it out")
    return mean, scale


def _column(combiner: Combiner, i: int, features: Sequence[Features]) -> list[float]:
    """Return a signal as the combiner will read it, shape (n,): with its weight alone being 1."""
    alone = Combiner(
        combiner.signals,
        combiner.mean,
        combiner.scale,
        tuple(float(j == i) for j in range(len(combiner.signals))),
        0.0,
    )
    return [-alone.sure(f) for f in features]
