"""Which quantization to take: what fits a budget, what is as good as the best, what is fastest of these."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.lab.eval.interval import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from crayon.lab.eval.quantized.probe import ProbeResult

    Points = NDArray[np.float64]

# As much more perplexity as `crayon models prepare` allows.
ALLOWED = 0.01
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Quantized:
    """One type: its file, what was measured, and 100 or 0 for each question of each task."""

    type: str
    size_bytes: int
    sha256: str
    measured: ProbeResult
    right: Mapping[str, Points]

    @property
    def decode_tps(self) -> float:
        """Answer tokens a second."""
        return statistics.median(self.measured.decode_tps)

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens a second."""
        return statistics.median(self.measured.prefill_tps)

    @property
    def accuracy(self) -> float:
        """Mean over tasks, per cent."""
        return float(np.mean([points.mean() for points in self.right.values()]))

    def turn_s(self, prompt: int, answer: int) -> float:
        """Return seconds of a typical turn."""
        return prompt / self.prefill_tps + answer / self.decode_tps


@dataclass(frozen=True, slots=True)
class Advice:
    """The type to take, None where none fits the budget, and why."""

    type: str | None
    reason: str


def against(ours: Quantized, theirs: Quantized) -> tuple[float, float, float]:
    """Return the mean difference of accuracies over tasks, with its paired interval, in points."""
    return bootstrap([(ours.right[name][None], theirs.right[name][None]) for name in ours.right])


def pareto(found: Sequence[Quantized], costs: Sequence[Callable[[Quantized], float]]) -> list[Quantized]:
    """Return those that no other beats in one of the costs without losing in another; smaller is better."""

    def beats(other: Quantized, own: Quantized) -> bool:
        pairs = [(cost(other), cost(own)) for cost in costs]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [own for own in found if not any(beats(other, own) for other in found)]


def recommend(
    found: Sequence[Quantized], *, memory_mib: float | None, tokens_per_s: float | None, prompt: int, answer: int
) -> Advice:
    """Return what to take within a budget of memory and a least rate of decoding; either may be open.

    Of those that fit, the best has the lowest perplexity. Others are as good if their perplexity is at most 1 % higher
    and their accuracy is not shown to be lower. The fastest typical turn among these is taken.
    """
    fits = [
        one for one in found
        if (memory_mib is None or one.measured.peak_bytes <= memory_mib * MIB)
        and (tokens_per_s is None or one.decode_tps >= tokens_per_s)
    ]  # fmt: skip
    if not fits:
        least = min(found, key=lambda one: one.measured.peak_bytes)
        fastest = max(found, key=lambda one: one.decode_tps)
        return Advice(
            None,
            f"none fits: the least memory is {least.measured.peak_bytes / MIB:,.0f} MiB ({least.type}), the fastest "
            f"writes {fastest.decode_tps:,.0f} tokens/s ({fastest.type})",
        )
    best = min(fits, key=lambda one: one.measured.perplexity)
    good = [one for one in fits if one is best or _as_good(one, best)]
    taken = min(good, key=lambda one: one.turn_s(prompt, answer))
    budget = [
        f"at most {memory_mib:,.0f} MiB" if memory_mib is not None else "",
        f"at least {tokens_per_s:,.0f} tokens/s" if tokens_per_s is not None else "",
    ]
    within = " and ".join(part for part in budget if part)
    reason = f"of {len(fits)} types within {within}, " if within else f"of {len(fits)} types, "
    if taken is best:
        reason += "it has the lowest perplexity, and none that is as good is faster"
    else:
        ratio = taken.measured.perplexity / best.measured.perplexity - 1
        value, low, high = against(taken, best)
        reason += (
            f"it has the fastest turn of those as good as {best.type}: perplexity {ratio:+.2%}, "
            f"accuracy {value:+.1f} points [{low:+.1f}, {high:+.1f}]"
        )
    return Advice(taken.type, reason)


def _as_good(one: Quantized, best: Quantized) -> bool:
    worse = one.measured.perplexity / best.measured.perplexity - 1
    return worse <= ALLOWED and not against(one, best)[2] < 0
