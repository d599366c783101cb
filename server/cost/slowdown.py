"""The cost of a step on the machine as it is now: a profile, times how slow the machine is at the moment."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crayon.server.cost.step_cost import StepCost, StepShape

# The factor is the median of the last calls: a machine that is slow from now on is followed after five of them, and
# four that were slow for their own reasons change nothing.
_RECENT = 9
# What a refit sees of the past.
_REMEMBERED = 512
# How slow the machine was at a call is, for a refit, the median of this many around it. Of fewer, which are often
# alike, it would hide that the cost is wrong for calls of their kind.
_AROUND = 65


class Slowdown:
    """Predicts calls, and learns from those that ran.

    A busy neighbour slows every call by about the same factor, which comes and goes quickly. What the terms are to each
    other changes slowly, if at all. So the factor follows each call, and the terms change only when
    somebody fits new ones to what is `remembered` and has them adopted.

    Args:
        cost: from a profile.
        anchors: shapes of the profile. A fit keeps to `cost` there as far as later calls do not say otherwise, so
            that a term that no call showed lately is not forgotten.
    """

    __slots__ = ("_anchors", "_ratios", "_seen", "cost", "factor")

    def __init__(self, cost: StepCost, anchors: Sequence[StepShape] = ()) -> None:
        self.cost = cost
        self.factor = 1.0
        self._anchors = tuple(anchors)
        self._ratios: deque[float] = deque(maxlen=_RECENT)
        self._seen: deque[tuple[StepShape, float]] = deque(maxlen=_REMEMBERED)

    def seconds(self, shape: StepShape) -> float:
        """Return the time that a call takes now."""
        return self.factor * self.cost.seconds(shape)

    def observed(self, shape: StepShape, seconds: float) -> None:
        """Learn from a call that ran."""
        predicted = self.cost.seconds(shape)
        if not (seconds > 0 and predicted > 0):
            return  # a clock that stood still, or a cost that knows nothing
        ratios = self._ratios
        ratios.append(seconds / predicted)
        self.factor = _middle(ratios)
        self._seen.append((shape, seconds))

    def remembered(self) -> list[tuple[StepShape, float]]:
        """Return what to fit the terms to: the last calls, each as if undisturbed, and the profile's as predicted."""
        if not self._seen:
            return []
        known = [(shape, self.cost.seconds(shape)) for shape in self._anchors]
        ratios = np.array(self._seen_ratios(len(self._seen)))
        around = np.lib.stride_tricks.sliding_window_view(np.pad(ratios, _AROUND // 2, "edge"), _AROUND)
        levels = np.median(around, axis=1).tolist()
        return [*known, *((shape, seconds / level) for (shape, seconds), level in zip(self._seen, levels, strict=True))]

    def adopt(self, cost: StepCost, anchors: Sequence[StepShape] | None = None) -> None:
        """Predict with other terms from now on, and with other anchors if given."""
        self.cost = cost
        if anchors is not None:
            self._anchors = tuple(anchors)
        self._ratios.extend(self._seen_ratios(_RECENT))
        self.factor = _middle(self._ratios) if self._ratios else 1.0

    def _seen_ratios(self, last: int) -> list[float]:
        return [seconds / self.cost.seconds(shape) for shape, seconds in list(self._seen)[-last:]]


def _middle(ratios: Iterable[float]) -> float:
    """Return the median, or the lower of the two in the middle."""
    ordered = sorted(ratios)
    return ordered[(len(ordered) - 1) // 2]
