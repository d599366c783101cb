"""The hybrid at every share of the server, and each side alone: accuracies with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.interval import bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from crayon.lab.eval.routing.decide import Routed
    from crayon.lab.eval.routing.traffic import User

    Values: TypeAlias = NDArray[np.float64]
    Results: TypeAlias = Sequence[tuple[User, Sequence[Routed]]]

TRAFFIC = "half own queries, half strangers"
OWN = "own queries"
# Who answers, alone and together; "device" is the base where the scope gate lets nothing in, and else the blend.
SIDES = ("base", "blend", "device", "server", "router")


def sent_at(benefit: Values, share: float) -> Values:
    """Return the part of each query that is sent if a share (0 to 1) goes to the server, shape (queries,).

    Queries that gain most go first. Of those that gain the same as the last one sent, each goes in part: what sending
    some of them in random order comes to on average.
    """
    left = share * len(benefit)
    sent = np.zeros(len(benefit))
    for value in np.unique(benefit)[::-1]:
        block = benefit == value
        part = min(left / block.sum(), 1.0)
        sent[block] = part
        left -= part * block.sum()
        if left <= 0:
            break
    return sent


def share_rows(results: Results, model: str, shares: Sequence[int]) -> Iterator[BenchRow]:
    """Yield, for each group of users and each share in per cent, the accuracy and the gain over random sending."""
    for group in dict.fromkeys(user.group for user, _ in results):
        own = [draws for user, draws in results if user.group == group]
        for share in shares:
            pairs = [_at(draws, share / 100) for draws in own]
            yield _row("accuracy_at_share", [(a, np.zeros_like(a)) for a, _ in pairs], model, group, f"{share}%")
            if 0 < share < 100:
                yield _row("gain_vs_random_at_share", pairs, model, group, f"{share}%", against="random sending")


def side_rows(results: Results, model: str) -> Iterator[BenchRow]:
    """Yield each user's accuracy by who answers: on all of the traffic, and on the own queries alone."""
    for user, draws in results:
        own = np.array([query.own for query in user.queries])
        for workload, chosen in ((TRAFFIC, np.ones_like(own)), (OWN, own)):
            for side in SIDES:
                values = 100 * np.stack([_right(draw, side)[chosen] for draw in draws])
                pair = [(values, np.zeros_like(values))]
                yield _row("side_accuracy", pair, model, user.group, side, workload=workload, task=user.name)


def _at(draws: Sequence[Routed], share: float) -> tuple[Values, Values]:
    """Return points of the router and of random sending at a share, shape (draws, queries) each."""
    ours, random = [], []
    for draw in draws:
        sent = sent_at(draw.benefit, share)
        ours.append(draw.device + sent * (draw.server - draw.device))
        random.append(draw.device + share * (draw.server - draw.device))
    return 100 * np.stack(ours), 100 * np.stack(random)


def _right(draw: Routed, side: str) -> Values:
    if side == "router":
        return np.where(draw.sent, draw.server, draw.device)
    named = {"base": draw.plain, "blend": draw.blended, "device": draw.device, "server": draw.server}
    return named[side]


def _row(
    metric: str,
    pairs: Sequence[tuple[Values, Values]],
    model: str,
    group: str,
    variant: str,
    *,
    against: str | None = None,
    workload: str = TRAFFIC,
    task: str | None = None,
) -> BenchRow:
    value, low, high = bootstrap(pairs)
    draws = max(len(ours) for ours, _ in pairs)
    runs = tuple(float(np.mean([ours[d].mean() - theirs[d].mean() for ours, theirs in pairs])) for d in range(draws))
    return BenchRow(
        metric, value, "points", runs, model, workload, against, None, low, high, sum(o.shape[1] for o, _ in pairs),
        draws, group, task, variant,
    )  # fmt: skip
