"""How good a router is, told exactly from who was right: curves over the server's share, and figures drawn from them.

Everywhere `device_right` and `server_right` are flags, or shares in [0, 1], one a query, and `need` says in which order
queries are sent (highest first). Queries of equal need are sent together: between the ends of such a block the curve is
a straight line, which is what sending them in random order gives on average. Figures are shares, not per cent.

PGR, APGR and CPT are those of RouteLLM (Ong et al. 2024, arXiv 2406.18665), computed without its ten bins: the area is
the exact trapezoid over the shares 0 to 1, and CPT the first crossing of the curve, which need not rise everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Values: TypeAlias = NDArray[np.float64]

ROUNDS = 1000
_SEED = 150
# Two accuracies that differ by less are the same number, summed in another order.
_SAME = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy against the server's share, a straight line between its points.

    Args:
        share: shape (points,), rising from 0 to 1.
        accuracy: shape (points,), with the device alone first and the server alone last.
    """

    share: Values
    accuracy: Values

    @property
    def device(self) -> float:
        """Accuracy when nothing is sent."""
        return float(self.accuracy[0])

    @property
    def server(self) -> float:
        """Accuracy when everything is sent."""
        return float(self.accuracy[-1])

    @property
    def area(self) -> float:
        """Mean accuracy over all shares: the exact area below the curve."""
        return float(np.sum(np.diff(self.share) * (self.accuracy[1:] + self.accuracy[:-1]) / 2))

    @property
    def peak(self) -> tuple[float, float]:
        """The least share at which accuracy is highest, and that accuracy."""
        best = int(np.argmax(self.accuracy >= self.accuracy.max() - _SAME))
        return float(self.share[best]), float(self.accuracy[best])

    def at(self, share: float) -> float:
        """Return the accuracy at one share of the server.

        Raises:
            InvalidRequestError: the share is not in [0, 1].
        """
        return float(np.interp(_share("share", share), self.share, self.accuracy))

    def first(self, accuracy: float) -> float | None:
        """Return the least share at which the curve reaches this accuracy, or None: it never does."""
        reached = np.flatnonzero(self.accuracy >= accuracy - _SAME)
        if not len(reached):
            return None
        after = int(reached[0])
        if after == 0:
            return 0.0
        low, high = self.accuracy[after - 1], self.accuracy[after]
        part = min(1.0, float((accuracy - low) / (high - low)))
        return float(self.share[after - 1] + part * (self.share[after] - self.share[after - 1]))


def curve(device_right: ArrayLike, server_right: ArrayLike, need: ArrayLike) -> Curve:
    """Return the curve of the router that sends by `need`, shape (queries,), highest first.

    Raises:
        InvalidRequestError: empty, of different sizes, NaN, or a value outside [0, 1].
    """
    device, server = _labels(device_right, server_right)
    scores = _column("need", need, len(device))
    order, starts = _blocks(scores)
    return _curve(device, server, order, starts, np.ones(len(device)))


def random_curve(device_right: ArrayLike, server_right: ArrayLike) -> Curve:
    """Return what sending in random order gives on average: a straight line."""
    device, _ = _labels(device_right, server_right)
    return curve(device_right, server_right, np.zeros(len(device)))


def oracle_curve(device_right: ArrayLike, server_right: ArrayLike) -> Curve:
    """Return the best curve there can be: it knows both answers.

    Queries that only the server gets right go first, those that only the device gets right last. Much of that order
    is luck where answers are guesses, so no router reaches it.
    """
    device, server = _labels(device_right, server_right)
    return curve(device, server, server - device)


def pgr(accuracy: float, device: float, server: float) -> float | None:
    """Return the performance gap recovered, unclipped: 0 is the device alone, 1 the server alone.

    None where the server is not better than the device: there is no gap to recover.
    """
    return (accuracy - device) / (server - device) if server - device > _SAME else None


def apgr(routed: Curve) -> float | None:
    """Return the average performance gap recovered over all shares, unclipped (random: 0.5; an oracle is above 1).

    None where the server is not better than the device.
    """
    return pgr(routed.area, routed.device, routed.server)


def cpt(routed: Curve, recovered: float) -> float | None:
    """Return the call-performance threshold: the least share of the server that recovers this much of the gap.

    Args:
        routed: the router's curve.
        recovered: part of the gap, more than 0; above 1 where a router beats the server.

    Returns:
        The first crossing of the curve, or None: never reached, or the server is not better than the device.

    Raises:
        InvalidRequestError: `recovered` is not a positive number.
    """
    if not 0 < recovered < math.inf:
        raise InvalidRequestError("recovered", f"must be a number above 0, such as 0.5, not {recovered!r}")
    if pgr(routed.device, routed.device, routed.server) is None:
        return None
    return routed.first(routed.device + recovered * (routed.server - routed.device))


def ibc_lift(
    routed: Curve, share: float, *, device_cost: float, server_cost: float, check_cost: float = 0.0
) -> float | None:
    """Return the lift in incremental benefit per cost at one share, against sending everything.

    The benefit per cost of a way to answer is what it gains over the device alone, over what it costs more. A cascade
    pays the device (and its check) on every query and the server on those sent; sending everything pays the server
    only. From AutoMix (Madaan et al. 2023, arXiv 2310.12963), as its `main.py` computes it. Above 0 is worth having.

    Args:
        routed: the router's curve.
        share: the server's share.
        device_cost: of one query on the device.
        server_cost: of one query on the server; more than the device's.
        check_cost: of deciding one query.

    Returns:
        The lift, or None where the server is not better than the device, or the cascade costs nothing more.

    Raises:
        InvalidRequestError: a cost is negative or not finite, or the server costs no more than the device.
    """
    for name, cost in (("device_cost", device_cost), ("server_cost", server_cost), ("check_cost", check_cost)):
        if not 0 <= cost < math.inf:
            raise InvalidRequestError(name, f"must be a finite number, 0 or more, not {cost!r}")
    if server_cost <= device_cost:
        raise InvalidRequestError("server_cost", f"must be more than device_cost ({device_cost}), not {server_cost}")
    more = check_cost + _share("share", share) * server_cost
    gap = routed.server - routed.device
    if gap <= _SAME or more <= 0:
        return None
    always = gap / (server_cost - device_cost)
    return ((routed.at(share) - routed.device) / more - always) / always


def auroc(right: ArrayLike, sure: ArrayLike) -> float | None:
    """Return how well `sure` tells right from wrong answers: the chance that a right one scores higher, ties half.

    Args:
        right: flags, shape (n,); a share counts as that much of a right and the rest of a wrong answer.
        sure: scores, shape (n,), higher for surer.

    Returns:
        From 0 to 1, or None where all answers are right or all are wrong.

    Raises:
        InvalidRequestError: empty, of different sizes, NaN, or a label outside [0, 1].
    """
    labels = _flags("right", right)
    scores = _column("sure", sure, len(labels))
    order, starts = _blocks(-scores)  # lowest first
    rights = np.add.reduceat(labels[order], starts)
    wrongs = np.add.reduceat(1 - labels[order], starts)
    pairs = rights.sum() * wrongs.sum()
    if pairs <= 0:
        return None
    below = np.cumsum(wrongs) - wrongs
    return float(np.sum(rights * (below + wrongs / 2)) / pairs)


def selected_risk(device_right: ArrayLike, need: ArrayLike, share: float) -> float | None:
    """Return the share of wrong answers among those that the device keeps, when `share` of the queries is sent.

    None at a share of 1, which keeps nothing.

    Raises:
        InvalidRequestError: empty, of different sizes, NaN, or a value outside [0, 1].
    """
    wrong = 1 - _flags("device_right", device_right)
    if _share("share", share) == 1:
        return None
    # Sending makes an error 0: the curve's height is what is left of them.
    left = curve(wrong, np.zeros(len(wrong)), need).at(share)
    return min(1.0, max(0.0, left / (1 - share)))


def bootstrap_accuracy(
    device_right: ArrayLike, server_right: ArrayLike, need: ArrayLike, share: float, *, rounds: int = ROUNDS
) -> Interval:
    """Return a router's accuracy at one share with its interval: queries are drawn again with replacement.

    Raises:
        InvalidRequestError: empty, of different sizes, NaN, or a value outside [0, 1].
    """
    device, server = _labels(device_right, server_right)
    values = _resampled(device, server, [_column("need", need, len(device))], _share("share", share), rounds)
    return _interval(values[:, 0])


def bootstrap_difference(
    device_right: ArrayLike,
    server_right: ArrayLike,
    need: ArrayLike,
    other: ArrayLike | None,
    share: float,
    *,
    rounds: int = ROUNDS,
) -> Interval:
    """Return the accuracy of one router minus that of another at one share, paired: both see the same draws.

    As in `crayon.lab.eval.interval`, each round draws the queries again with replacement; the interval is that of the
    2.5 % and 97.5 % quantiles; here both curves are made anew from what was drawn.

    Args:
        device_right: shape (queries,).
        server_right: shape (queries,).
        need: what the first router sends by, shape (queries,).
        other: what the second sends by; None is random at the same share.
        share: the server's share, the same for both.
        rounds: how often.

    Raises:
        InvalidRequestError: empty, of different sizes, NaN, or a value outside [0, 1].
    """
    device, server = _labels(device_right, server_right)
    needs = [
        _column("need", need, len(device)),
        np.zeros(len(device)) if other is None else _column("other", other, len(device)),
    ]
    values = _resampled(device, server, needs, _share("share", share), rounds)
    return _interval(values[:, 0] - values[:, 1])


def _resampled(device: Values, server: Values, needs: list[Values], share: float, rounds: int) -> Values:
    """Return shape (rounds + 1, needs): accuracies at `share`, first on the data as they are, then on each draw."""
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InvalidRequestError("rounds", f"must be a whole number, 1 or more, not {rounds!r}")
    rng = np.random.default_rng(_SEED)
    n = len(device)
    blocks = [_blocks(need) for need in needs]
    values = np.empty((rounds + 1, len(needs)))
    for i in range(rounds + 1):
        weights = np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64) if i else np.ones(n)
        for j, (order, starts) in enumerate(blocks):
            values[i, j] = _curve(device, server, order, starts, weights).at(share)
    return values


def _interval(values: Values) -> Interval:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high))


def _blocks(need: Values) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the order of sending, and where in it each block of equal need starts."""
    order = np.argsort(-need, kind="stable")
    ordered = need[order]
    return order, np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def _curve(device: Values, server: Values, order: NDArray[np.intp], starts: NDArray[np.intp], weights: Values) -> Curve:
    total = weights.sum()
    sent = np.add.reduceat(weights[order], starts)
    gains = np.add.reduceat((weights * (server - device))[order], starts)
    kept = sent > 0  # of a draw, blocks may be missing
    share = np.concatenate([[0.0], np.cumsum(sent[kept]) / total])
    accuracy = weights @ device / total + np.concatenate([[0.0], np.cumsum(gains[kept]) / total])
    share[-1], accuracy[-1] = 1.0, weights @ server / total
    return Curve(share, accuracy)


def _labels(device_right: ArrayLike, server_right: ArrayLike) -> tuple[Values, Values]:
    device, server = _flags("device_right", device_right), _flags("server_right", server_right)
    if len(device) != len(server):
        raise InvalidRequestError("server_right", f"has {len(server)} values, device_right {len(device)}")
    return device, server


def _flags(name: str, values: ArrayLike) -> Values:
    column = _column(name, values)
    if not ((column >= 0) & (column <= 1)).all():
        raise InvalidRequestError(name, "must be flags, or shares from 0 to 1")
    return column


def _column(name: str, values: ArrayLike, size: int | None = None) -> Values:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError):
        raise InvalidRequestError(name, "must be numbers, one a query") from None
    if column.ndim != 1 or not len(column):
        raise InvalidRequestError(name, f"must be one number a query, at least one, not of shape {column.shape}")
    if np.isnan(column).any():
        raise InvalidRequestError(name, f"value {int(np.isnan(column).argmax())} is not a number; leave the query out")
    if size is not None and len(column) != size:
        raise InvalidRequestError(name, f"has {len(column)} values, there are {size} queries")
    return column


def _share(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequestError(name, f"must be a share from 0 to 1, not {value!r}")
    return float(value)
