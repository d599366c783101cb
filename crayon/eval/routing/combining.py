"""Whether several signals tell more than the best one: on users that nothing was fitted on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.bench.report import Row
from crayon.errors import InvalidRequestError
from crayon.router import metrics
from crayon.router.combiner import fit_combiner
from crayon.router.signals import signal_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from crayon.eval.routing.decide import Routed
    from crayon.eval.routing.traffic import User
    from crayon.router.features import Features

SINGLE = ("margin", "max_prob", "choice_entropy", "scope_margin")
# The highest probability says what the margin does.
COMBINED = ("margin", "choice_entropy", "scope_margin")


def rows(results: Sequence[tuple[User, Sequence[Routed]]], model: str) -> Iterator[Row]:
    """Yield, for each signal and for their combination, how well it finds what sending would mend.

    The figure is the area under the ROC curve for "the device is wrong and the server right", of the queries that the
    device is let answer, for each user by a combiner fitted on all other users; then averaged.
    """
    users = [_inside(draws) for _, draws in results]
    names = [user.name for user, _ in results]
    found: dict[str, list[float]] = {}
    for i, (features, device, server) in enumerate(users):
        need = (1 - device) * server
        if not 0 < need.sum() < len(need):
            continue
        others = [user for j, user in enumerate(users) if j != i and names[j] != names[i]]
        try:
            combiner = fit_combiner(
                [one for fs, _, _ in others for one in fs],
                np.concatenate([d for _, d, _ in others]).tolist() if others else [],
                np.concatenate([s for _, _, s in others]).tolist() if others else [],
                COMBINED,
            )
        except InvalidRequestError:
            continue  # too few queries, or of one kind only
        sure = {name: [signal_value(name, one) or 0.0 for one in features] for name in SINGLE}
        sure["combiner"] = [combiner.sure(one) for one in features]
        for name, values in sure.items():
            found.setdefault(name, []).append(metrics.auroc(1 - need, values) or 0.0)
    for name, values in found.items():
        note = "device wrong and server right, inside the scopes; fitted on other users"
        yield Row("need_auroc", float(np.mean(values)), "ratio", tuple(values), model, note=note, n=len(values),
                  variant=name)  # fmt: skip


def _inside(draws: Sequence[Routed]) -> tuple[list[Features], NDArray[np.float64], NDArray[np.float64]]:
    return (
        [one for draw in draws for one, let_in in zip(draw.features, draw.let_in, strict=True) if let_in],
        np.concatenate([draw.device[draw.let_in] for draw in draws]),
        np.concatenate([draw.server[draw.let_in] for draw in draws]),
    )
