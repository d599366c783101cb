"""How many tokens an answer still gets, learnt from the answers that were finished.

The method is the product-limit estimate of Kaplan and Meier (Nonparametric Estimation from Incomplete
Observations, JASA 53, 1958), with one weight an answer. An answer that `max_tokens` or its reader cut after n
tokens is no answer of n tokens: all that is known is that it would have got longer, and it counts among those
that could still end up to there, never among those that did. This holds while who cuts does not know how much
was still to come. Weights halve every `half_life` answers, so that a drift is followed; what is four half-lives
old is forgotten.

Beyond the longest answer nothing is known, and what is not known is taken as the worst case. An answer of more
than 16,384 tokens counts as one that was cut there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from crayon.errors import ConfigError
from crayon.server.forecast.rules import LengthRule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_SEEN = 32
"""Answers that must have been seen before anything but the worst case is predicted."""
_REFRESH = 8  # answers from one new curve to the next: a curve costs as much as a hundred predictions
_HALF_LIVES = 4
_MOST_GROUPS = 64
_LONGEST = 16_384  # tokens: bounds the table of a curve
_ROUNDING = 1 + 1e-9  # a product of fractions may miss the share it stands for by some last bits


class LengthModel(Protocol):
    """Predicts how much an answer still gets."""

    def remaining(self, generated: int, most: int, *, group: str = "") -> int:
        """Return the tokens still to come after `generated` ones, from 1 to `most`."""
        ...


class SurvivalCurve:
    """Share of answers that get more than k tokens: a product-limit estimate from weighted answers.

    Args:
        lengths: tokens that each answer got, at least 1.
        ended: whether it ended there by itself.
        weights: how much each counts; None is once.
    """

    __slots__ = ("_area", "_ends", "_fallen", "_share", "total")

    def __init__(self, lengths: ArrayLike, ended: ArrayLike, weights: ArrayLike | None = None) -> None:
        times, index = np.unique(np.asarray(lengths, dtype=np.int64), return_inverse=True)
        ends = np.asarray(ended, dtype=np.float64)
        weight = np.ones_like(ends) if weights is None else np.asarray(weights, dtype=np.float64)
        here = np.bincount(index, weight)
        at_risk = np.cumsum(here[::-1])[::-1]
        share = np.cumprod(1 - np.bincount(index, weight * ends) / at_risk)
        before = np.concatenate(([1.0], share[:-1]))
        area = np.cumsum(before * np.diff(times, prepend=0))
        self._ends: list[int] = [0, *times.tolist()]
        self._share: list[float] = [1.0, *share.tolist()]
        self._fallen: list[float] = [-1.0, *(-share).tolist()]  # ascending, for bisection
        self._area: list[float] = [0.0, *area.tolist()]
        self.total = self._area[-1]
        """Mean length, as far as lengths are known."""

    def share(self, tokens: int) -> float:
        """Return the share of answers that get more than `tokens` tokens."""
        return self._share[bisect_right(self._ends, tokens) - 1]

    def mean(self, generated: int, most: int) -> float:
        """Return the mean of `min(L - generated, most)` over answers with `L > generated`."""
        i = bisect_right(self._ends, generated) - 1
        share = self._share[i]
        if share <= 0:
            return most
        last = generated + most
        j = bisect_right(self._ends, last, i) - 1
        area = self._area[j] - self._area[i] + self._share[j] * (last - self._ends[j])
        return area / share - (generated - self._ends[i])

    def quantile(self, generated: int, most: int, q: float) -> int:
        """Return the least m up to `most` so that at least `q` of the answers with `L > generated` get m or fewer."""
        i = bisect_right(self._ends, generated) - 1
        share = self._share[i]
        if share <= 0:
            return most
        j = bisect_left(self._fallen, (q - 1) * share * _ROUNDING, i + 1)
        return min(most, self._ends[j] - generated) if j < len(self._ends) else most


class Lengths:
    """Learns from finished answers, one group (a blend, a kind of caller) by one and all together.

    A group that has not seen `MIN_SEEN` answers is predicted from all of them. `remaining` changes nothing, and the
    same answers in the same order give the same predictions. Memory is bounded: the last answers of the 64 groups
    that ended one last.

    Args:
        rule: what is predicted.
        half_life: answers after which one counts half.

    Raises:
        ConfigError: there is no such rule, or a number is out of its range.
    """

    def __init__(self, rule: str = LengthRule.MEAN, *, half_life: int = 256) -> None:
        if rule not in {*LengthRule}:
            raise ConfigError("rule", f"must be one of {', '.join(LengthRule)}, not {rule!r}")
        if half_life < MIN_SEEN:
            raise ConfigError("half_life", f"must be at least {MIN_SEEN}, not {half_life}")
        self.rule = LengthRule(rule)
        self.half_life = half_life
        self._all = _LengthHistory(half_life)
        self._groups: dict[str, _LengthHistory] = {}

    @property
    def seen(self) -> int:
        """Answers learnt from."""
        return self._all.seen

    def observe(self, generated: int, *, ended: bool, group: str = "") -> None:
        """Learn from one answer of `generated` tokens; `ended` is false where it was cut.

        One that was cut before its first token says nothing and is left out.
        """
        if generated < 1:
            return
        if generated > _LONGEST:
            generated, ended = _LONGEST, False
        self._all.observe(generated, ended=ended)
        if group:
            history = self._groups.pop(group, None) or _LengthHistory(self.half_life)
            self._groups[group] = history  # last: the group that ended an answer longest ago is first
            history.observe(generated, ended=ended)
            if len(self._groups) > _MOST_GROUPS:
                del self._groups[next(iter(self._groups))]

    def remaining(self, generated: int, most: int, *, group: str = "") -> int:
        """Return the tokens still to come after `generated` ones, from 1 to `most`."""
        curve = self._curve(group)
        if curve is None or self.rule is LengthRule.WORST or most <= 1:
            return max(most, 1)
        # Up to the next token, and a sum's last bits do not make one.
        return min(max(int(-(-curve.mean(generated, most) // _ROUNDING)), 1), most)

    def mean(self, generated: int, most: int, *, group: str = "") -> float | None:
        """Return the mean of the tokens still to come, whatever the rule; None until enough was seen."""
        curve = self._curve(group)
        return None if curve is None else curve.mean(generated, most)

    def at_least(self, generated: int, most: int, share: float, *, group: str = "") -> int | None:
        """Return what all but a share of the answers exceed, or reach, whatever the rule; None until enough was seen.

        0 where not even the longest answer seen got this far, so that nothing is known of it.
        """
        curve = self._curve(group)
        if curve is None:
            return None
        return curve.quantile(generated, most, share) if curve.share(generated) > 0 else 0

    def _curve(self, group: str) -> SurvivalCurve | None:
        history = self._groups.get(group) if group else None
        return (history and history.curve) or self._all.curve


class _LengthHistory:
    """The last answers, in a ring, and their curve."""

    __slots__ = ("_ended", "_half_life", "_lengths", "curve", "seen")

    def __init__(self, half_life: int) -> None:
        size = _HALF_LIVES * half_life
        self._half_life = half_life
        self._lengths: NDArray[np.int64] = np.zeros(size, dtype=np.int64)
        self._ended: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        self.seen = 0
        self.curve: SurvivalCurve | None = None

    def observe(self, generated: int, *, ended: bool) -> None:
        size = len(self._lengths)
        at = self.seen % size
        self._lengths[at], self._ended[at] = generated, ended
        self.seen += 1
        if self.seen >= MIN_SEEN and self.seen % _REFRESH == 0:
            known = min(self.seen, size)
            age: NDArray[Any] = (at - np.arange(known)) % size
            self.curve = SurvivalCurve(self._lengths[:known], self._ended[:known], 0.5 ** (age / self._half_life))
