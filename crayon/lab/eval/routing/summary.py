"""From what happened to the figures: gains with paired intervals, the two gates, and whether the promise holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.errors import InvalidRequestError
from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.interval import bootstrap
from crayon.router import metrics
from crayon.router.calibration import calibrate
from crayon.router.cases import Case, Priors
from crayon.router.targets import MaxDeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from crayon.lab.eval.routing.decide import Routed
    from crayon.lab.eval.routing.settings import RouteSettings
    from crayon.lab.eval.routing.traffic import User

    Values: TypeAlias = NDArray[np.float64]
    Results: TypeAlias = Sequence[tuple[User, Sequence[Routed]]]

# Of a query, in queries of the server: as many as the default device model has parameters per parameter of the server.
DEVICE_COST = 0.09

VARIANTS = (
    "router",
    "device",
    "server",
    "random",
    "random_50",
    "scope_only",
    "confidence_only",
    "query_only",
    "day_one",
    "perfect_scope",
    "oracle",
)


def points(user: User, draws: Sequence[Routed]) -> dict[str, Values]:
    """Return 100, 0 or an expectation for each draw and query, shape (draws, queries), by variant.

    `random` sends as many as the router did, `confidence_only` the same number of those with the least margin, and
    `query_only` of those with the least scope score, so by the query alone. `day_one` is the router calibrated on the
    user's own samples only, `router` also on known strangers.
    `perfect_scope` lets the blend answer what is the user's own, and the server all else. `oracle` knows who is right.
    """
    own = np.array([query.own for query in user.queries])
    found: dict[str, list[Values]] = {name: [] for name in VARIANTS}
    for draw in draws:
        device, server, share = draw.device, draw.server, float(draw.sent.mean())
        least, farthest = (_least(signal, int(draw.sent.sum())) for signal in (draw.sure, draw.inside))
        found["router"].append(np.where(draw.sent, server, device))
        found["device"].append(device)
        found["server"].append(server)
        found["random"].append((1 - share) * device + share * server)
        found["random_50"].append(0.5 * device + 0.5 * server)
        found["scope_only"].append(np.where(draw.inside < 0, server, device))
        found["confidence_only"].append(np.where(least, server, device))
        found["query_only"].append(np.where(farthest, server, device))
        found["day_one"].append(draw.day_one)
        found["perfect_scope"].append(np.where(own, draw.blended, server))
        found["oracle"].append(np.maximum(device, server))
    return {name: 100.0 * np.stack(rows) for name, rows in found.items()}


def _least(signal: Values, count: int) -> NDArray[np.bool_]:
    chosen = np.zeros(len(signal), bool)
    chosen[np.argsort(signal, kind="stable")[:count]] = True
    return chosen


def rows(results: Results, model: str, settings: RouteSettings) -> list[BenchRow]:
    """Return every figure of the users' traffic."""
    scored = [(user, draws, points(user, draws)) for user, draws in results]
    found: list[BenchRow] = []
    for group in dict.fromkeys(user.group for user, _ in results):
        own = [each for each in scored if each[0].group == group]
        by_better = [(p["router"], p[_better(p)]) for _, _, p in own]
        found.append(_row(f"{group}_gain_vs_better_side", by_better, "the better of device and server", model, group))
        for other in VARIANTS[1:]:
            pairs = [(p["router"], p[other]) for _, _, p in own]
            found.append(_row(f"{group}_gain_vs_{other}", pairs, other, model, group))
        share = [100.0 * np.stack([d.sent.astype(float) for d in draws]) for _, draws, _ in own]
        pairs = [(sent, np.zeros_like(sent)) for sent in share]
        found.append(_row(f"{group}_server_share", pairs, None, model, group, unit="%"))
        perfect = [(p["perfect_scope"], p[_better(p)]) for _, _, p in own]
        gain, best = (float(np.mean([a.mean() - b.mean() for a, b in each])) for each in (by_better, perfect))
        found.append(_row(f"{group}_perfect_scope_gain", perfect, "the better of device and server", model, group))
        if group == "in_pool":
            note = f"{gain:.1f} of {best:.1f} points over the better side"
            if best > 0:
                found.append(
                    BenchRow("fraction_of_perfect_scope", gain / best, "ratio", (), model, note=note, group=group)
                )
    changes = [
        _row("change_vs_better_side", [(p["router"], p[_better(p)])], _better(p), model, user.group, task=user.name)
        for user, _, p in scored
    ]
    at_equal = [
        _row("change_vs_random", [(p["router"], p["random"])], "random at equal share", model, user.group, user.name)
        for user, _, p in scored
    ]
    for name, each in (("worst_change_vs_better_side", changes), ("worst_change_vs_random", at_equal)):
        worst = min(each, key=lambda row: row.value)
        found.append(
            BenchRow(name, worst.value, worst.unit, worst.runs, model, None, worst.against, worst.note, worst.ci_low,
                worst.ci_high, worst.n, worst.draws, worst.group, worst.task)
        )  # fmt: skip
    found += [*changes, *at_equal, *_curve_figures(results, model)]
    for user, _, p in scored:
        for variant, values in p.items():
            zero = [(values, np.zeros_like(values))]
            found.append(_row("accuracy", zero, None, model, user.group, task=user.name, variant=variant))
    return [*found, *_by_place(results, model), *_promise(results, model, settings)]


def _better(p: Mapping[str, Values]) -> str:
    """Return the side that is better alone; told by the very queries that are measured, which flatters it."""
    return "device" if p["device"].mean() >= p["server"].mean() else "server"


def _row(
    metric: str,
    pairs: Sequence[tuple[Values, Values]],
    against: str | None,
    model: str,
    group: str,
    task: str | None = None,
    *,
    unit: str = "points",
    variant: str | None = None,
) -> BenchRow:
    value, low, high = bootstrap(pairs)
    runs = tuple(
        float(np.mean([ours[min(d, len(ours) - 1)].mean() - theirs[min(d, len(theirs) - 1)].mean()
                       for ours, theirs in pairs]))
        for d in range(max(len(ours) for ours, _ in pairs))
    )  # fmt: skip
    return BenchRow(
        metric, value, unit, runs, model, None, against, None, low, high, sum(o.shape[1] for o, _ in pairs), len(runs),
        group, task, variant,
    )  # fmt: skip


def _by_place(results: Results, model: str) -> Iterator[BenchRow]:
    """Yield both sides' accuracy inside the scopes and outside of them: what the priors are made of."""
    for group in dict.fromkeys(user.group for user, _ in results):
        draws = [draw for user, draws in results if user.group == group for draw in draws]
        for place in ("inside", "outside"):
            for side in ("device", "server"):
                shares = [
                    100 * float(getattr(draw, side)[chosen].mean())
                    for draw in draws
                    if (chosen := draw.let_in if place == "inside" else ~draw.let_in).any()
                ]
                if shares:
                    yield BenchRow(f"{side}_accuracy_{place}", float(np.mean(shares)), "points", tuple(shares), model,
                              group=group, n=len(shares))  # fmt: skip


def _curve_figures(results: Results, model: str) -> Iterator[BenchRow]:
    """Yield what curves say, each user's and draw's alone, then averaged over them."""
    for group in dict.fromkeys(user.group for user, _ in results):
        found: dict[str, list[float]] = {}
        for user, draws in results:
            for draw in draws if user.group == group else ():
                for name, value in _figures(user, draw).items():
                    found.setdefault(name, []).append(value)
        for name, values in found.items():
            unit = "%" if name.startswith("cpt") else "ratio"
            yield BenchRow(name, float(np.mean(values)), unit, tuple(values), model, group=group, n=len(values))


def _figures(user: User, draw: Routed) -> dict[str, float]:
    own = np.array([float(query.own) for query in user.queries])
    routed = metrics.curve(draw.device, draw.server, draw.benefit)
    let_in = draw.let_in
    sent = float(draw.sent.mean())
    values: dict[str, float | None] = {
        "scope_auroc_traffic": metrics.auroc(own, draw.inside),
        "hardness_auroc_inside": metrics.auroc(draw.device[let_in], draw.sure[let_in]) if let_in.any() else None,
        "hardness_auroc_outside": metrics.auroc(draw.device[~let_in], draw.sure[~let_in]) if not let_in.all() else None,
        "selected_risk_20": metrics.selected_risk(draw.device, draw.benefit, 0.2),
        "selected_risk_40": metrics.selected_risk(draw.device, draw.benefit, 0.4),
    }
    if routed.server > routed.device:
        values["apgr"] = metrics.apgr(routed)
        values["apgr_oracle"] = metrics.apgr(metrics.oracle_curve(draw.device, draw.server))
        values["apgr_confidence_only"] = metrics.apgr(metrics.curve(draw.device, draw.server, -draw.sure))
        values["apgr_query_only"] = metrics.apgr(metrics.curve(draw.device, draw.server, -draw.inside))
        if sent:
            values["ibc_lift"] = metrics.ibc_lift(routed, sent, device_cost=DEVICE_COST, server_cost=1.0)
        for part in (50, 80):
            share = metrics.cpt(routed, part / 100)
            values[f"cpt_{part}"] = None if share is None else 100 * share
    return {name: value for name, value in values.items() if value is not None}


def _promise(results: Results, model: str, settings: RouteSettings) -> Iterator[BenchRow]:
    """Yield how often a promised bound on the device's errors does not hold, calibrated on samples of the traffic.

    All traffic of users in the pool is taken for the population: cases are drawn from it, and the promise is held
    against all of it.
    """
    population = [
        Case(
            profile="traffic", inside_score=float(draw.inside[i]),
            sure=float(draw.sure[i]) if draw.let_in[i] else None,
            device_right=float(draw.device[i]), server_right=float(draw.server[i]), own=query.own,
        )
        for user, draws in results
        for draw in draws
        for i, query in enumerate(user.queries)
        if user.group == "in_pool"
    ]  # fmt: skip
    if len(population) < settings.cases:
        return
    rng = np.random.default_rng(settings.seed)
    wrong = np.array([case.device_right == 0 for case in population])
    broken, made = 0, 0
    shares = []
    for _ in range(settings.promises):
        drawn = [population[i] for i in rng.integers(len(population), size=settings.cases)]
        try:
            found = calibrate(drawn, MaxDeviceError(settings.error, settings.confidence), Priors(), rounds=2)
        except InvalidRequestError:
            continue  # it says that it cannot promise
        made += 1
        kept = np.array([not found.sends(found.benefit(c.profile, c.inside_score, c.sure)) for c in population])
        broken += bool(kept.any() and wrong[kept].mean() > settings.error)
        shares.append(1 - kept.mean())
    if made:
        note = (
            f"at most {settings.error:.0%} errors with {settings.confidence:.0%} confidence, from {settings.cases} "
            f"cases; promised in {made} of {settings.promises} draws, sending {100 * np.mean(shares):.0f} % on average"
        )
        yield BenchRow("bound_violation_rate", broken / made, "ratio", (), model, note=note, n=made)
