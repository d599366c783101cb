"""From a user's samples to the weights of a pool's members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import AdapterError, InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray


NORMAL, MOST = 16, 64  # samples that thresholds are given for, and beyond which they rise no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """How similarity (cosines, -1 to 1) becomes weights.

    Below `floor` no member fits and the base answers alone. A member whose own threshold the samples reach is as near
    as its own task: it answers alone. Between the two the members share `mass` by softmax of cosine / `temperature`,
    and the base keeps the rest: where no member knows the task, a weaker change does better than a full one.

    Thresholds are those for 16 samples. The mean of fewer samples is a noisier direction: with unit vectors of mean
    pairwise cosine r, similarity s to the true direction obeys s^2 / (1 - s^2) = n r / (1 - r), so the odds of a
    threshold are scaled by n / 16 (`scaled`); those of the floor only down.

    Args:
        temperature: of the softmax.
        sharpen: the threshold of a member that `alone` says nothing of.
        alone: one threshold a member; () for none.
        floor: below it no member fits.
        mass: what members share where none is near enough to answer alone.
        mixes: whether each member takes part in such a blend; () for all. Where the nearest member does not, the base
            is kept: what some members learned (the answers' form, a bias) harms other tasks.
    """

    temperature: float = 0.2
    sharpen: float = 0.9
    alone: tuple[float, ...] = ()
    floor: float = 0.3
    mass: float = 0.6
    mixes: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not 0.001 <= self.temperature <= 100.0:
            raise AdapterError(f"gate.temperature is {self.temperature}; it must be between 0.001 and 100")
        if not -1.0 <= self.floor <= 2.0:
            raise AdapterError(f"gate.floor is {self.floor}; it must be between -1 and 2 (2: always the base)")
        for threshold in (self.sharpen, *self.alone):
            if not -1.0 <= threshold <= 2.0:
                raise AdapterError(
                    f"gate.sharpen is {threshold}; it must be between -1 and 2 (2: never one member alone)"
                )
        if not 0.0 < self.mass <= 1.0:
            raise AdapterError(f"gate.mass is {self.mass}; it must be above 0 and at most 1")


def similarities(samples: NDArray[np.float32], keys: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of the samples' mean direction with each key, (K,).

    Args:
        samples: (n, D) unit rows, centred as the pool's keys are; n at least 1.
        keys: (K, D) unit rows.

    Raises:
        InvalidRequestError: no samples, another width than the keys, or a number that is not finite.
    """
    if samples.ndim != 2 or samples.shape[0] == 0:
        raise InvalidRequestError("samples", "hold no embedding; pass at least one")
    if samples.shape[1] != keys.shape[1]:
        raise InvalidRequestError(
            "samples", f"have {samples.shape[1]} dimensions, the pool's keys {keys.shape[1]}: use the pool's encoder"
        )
    mean = samples.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise InvalidRequestError("samples", "hold numbers that are not finite")
    length = np.linalg.norm(mean)
    # Samples that cancel out point nowhere: no member is near.
    return np.asarray(keys.astype(np.float64) @ (mean / max(length, 1e-9)), np.float64)


def scaled(threshold: float, samples: int) -> float:
    """Return a threshold for 16 samples as one for fewer or more; those above 1 or not above 0 stay."""
    if samples == NORMAL or not 0.0 < threshold < 1.0:
        return threshold
    odds = threshold**2 / (1.0 - threshold**2) * min(samples, MOST) / NORMAL
    return float(np.sqrt(odds / (1.0 + odds)))


def weights(similarity: NDArray[np.floating], gate: Gate, samples: int = 16) -> NDArray[np.float64]:
    """Return (K,) weights, each from 0 to 1, summing to at most 1: what is missing stays with the base.

    Args:
        similarity: (K,) finite cosines.
        gate: the pool's.
        samples: how many the similarity was computed from.

    Raises:
        InvalidRequestError: the gate was made for another number of members.
    """
    for name, given in (("alone", gate.alone), ("mixes", gate.mixes)):
        if len(given) not in (0, len(similarity)):
            raise InvalidRequestError(
                f"gate.{name}", f"has {len(given)} entries for {len(similarity)} members; give one for each, or none"
            )
    share = np.zeros(len(similarity))
    best = int(np.argmax(similarity))
    # One or two samples are near to something by chance. More than 16 do not raise the floor: the mean of a task that
    # no member knows comes nearer to its own direction, and that one is no nearer to any member.
    fewer = scaled(gate.floor, min(samples, NORMAL))
    floor = max(fewer, gate.floor / 2) if gate.floor > 0.0 else gate.floor
    if similarity[best] < floor:
        return share
    if similarity[best] >= scaled(gate.alone[best] if gate.alone else gate.sharpen, samples):
        share[best] = 1.0
        return share
    if gate.mixes and not gate.mixes[best]:
        return share
    # No overflow: nothing is larger than the best.
    odds = np.exp((np.asarray(similarity, np.float64) - similarity[best]) / gate.temperature)
    odds *= np.asarray(gate.mixes or np.ones(len(odds)), np.float64)
    return np.asarray(gate.mass * odds / odds.sum())
