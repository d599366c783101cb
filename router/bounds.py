"""What can be promised about error rates from counted errors: exact binomial bounds and a test that may go on.

Clopper and Pearson (1934) bounds hold for any error rate and any number of cases. The fixed-sequence test tries
thresholds in an order set beforehand and stops at the first that fails, so that trying many costs no confidence
(see "Learn then test", Angelopoulos et al. 2021, arXiv 2110.01052).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEPS = 200
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Passed:
    """What a fixed-sequence test found: the loosest entry that passed, and its counts and bound."""

    index: int
    kept: int
    errors: int
    bound: float


def upper_bound(errors: int, n: int, delta: float) -> float:
    """Return the Clopper-Pearson upper bound: a true rate above it gives so few errors with chance `delta` at most.

    It is the p with P(Binomial(n, p) <= errors) = delta; 1 where all are errors or there is no case.

    Args:
        errors: counted, 0 to n.
        n: cases, 0 or more.
        delta: the chance to be wrong, between 0 and 1.

    Raises:
        InvalidRequestError: counts or `delta` out of range.
    """
    _check_counts(errors, n)
    _check_open("delta", delta)
    if errors == n:
        return 1.0
    low, high = errors / n, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        # The chance of at most this many errors falls as the rate grows.
        if binomial_cdf(errors, n, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(Binomial(n, p) <= k), as the regularised incomplete beta function I_{1-p}(n - k, k + 1)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return _beta_share(n - k, k + 1, 1.0 - p)


def min_kept(alpha: float, delta: float) -> int:
    """Return the least number of cases that can promise an error rate of `alpha`: with fewer, no error is no proof.

    Raises:
        InvalidRequestError: `alpha` or `delta` is not between 0 and 1.
    """
    _check_open("alpha", alpha)
    _check_open("delta", delta)
    n = max(1, math.floor(math.log(delta) / math.log1p(-alpha)))
    # The logarithms may be off by a hair at whole numbers.
    while n > 1 and 1 - delta ** (1 / (n - 1)) <= alpha:
        n -= 1
    while 1 - delta ** (1 / n) > alpha:
        n += 1
    return n


def fixed_sequence(counts: Sequence[tuple[int, int]], alpha: float, delta: float) -> Passed | None:
    """Return the loosest threshold whose error rate is at most `alpha`, all stricter ones having passed too.

    With confidence 1 - delta the promise holds for the one returned, whatever number was tried: the first threshold
    whose rate is really above `alpha` passes with chance `delta` at most, and no later one is reached without it.

    That needs an order, and a start, that do not depend on these cases' labels: take thresholds from other cases, and
    start where about `min_kept(alpha, delta)` or more are expected to be kept; smaller sets cannot pass and would end
    the test at once.

    Args:
        counts: for each threshold, from strict to loose, how many cases are kept and how many of those are errors.
        alpha: the most that the error rate may be, between 0 and 1.
        delta: the chance to be wrong about it, between 0 and 1.

    Returns:
        The loosest that passed, or None: not even the first did.

    Raises:
        InvalidRequestError: counts, `alpha` or `delta` out of range, or a looser threshold keeps less.
    """
    _check_open("alpha", alpha)
    _check_open("delta", delta)
    before = (0, 0)
    for i, (kept, errors) in enumerate(counts):
        _check_counts(errors, kept, f"counts[{i}]")
        if kept < before[0] or errors < before[1]:
            raise InvalidRequestError(f"counts[{i}]", "keeps less than the one before; order them from strict to loose")
        before = (kept, errors)
    passed: Passed | None = None
    for i, (kept, errors) in enumerate(counts):
        bound = upper_bound(errors, kept, delta)
        if bound > alpha:
            break
        passed = Passed(i, kept, errors, bound)
    return passed


def deferral_floor(error: float, alpha: float) -> float:
    """Return the share that has to be sent at least, by any method, for device errors of `error` to become `alpha`.

    (error - alpha) / (1 - alpha), or 0: sending away nothing but errors reaches it (arXiv 2606.29054).

    Raises:
        InvalidRequestError: `error` is not in [0, 1], or `alpha` not between 0 and 1.
    """
    _check_open("alpha", alpha)
    if not 0 <= error <= 1:
        raise InvalidRequestError("error", f"must be a rate from 0 to 1, not {error!r}")
    return max(0.0, (error - alpha) / (1 - alpha))


def _beta_share(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    # The fraction converges fast below the mean, and the function is symmetric.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    value = d
    # It needs in the order of the root of a and b steps.
    for m in range(1, _STEPS + 2 * math.isqrt(int(a + b))):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + numerator * d)
            c = _away_from_zero(1.0 + numerator / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _check_counts(errors: int, n: int, field: str = "errors") -> None:
    for value in (errors, n):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequestError(field, f"must be whole numbers, not {value!r}")
    if not 0 <= errors <= n:
        raise InvalidRequestError(field, f"must be 0 to the number of cases ({n}), not {errors}")


def _check_open(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise InvalidRequestError(name, f"must be between 0 and 1, such as 0.1, not {value!r}")
