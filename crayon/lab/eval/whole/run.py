"""The whole evaluation: customising, then routing, then costs; one report of all rows."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from crayon.lab.eval.customize import EvalReport, evaluate
from crayon.lab.eval.routing.run import evaluate_route
from crayon.lab.eval.whole.costs import CostMeter, chosen, cost_rows
from crayon.lab.eval.whole.shares import TRAFFIC, share_rows, side_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.adapters.pool import Pool
    from crayon.engine import Engine
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.customize import ModelUnderTest, OpenEngine, Tell
    from crayon.lab.eval.whole.settings import WholeSettings

BENCH = "eval run"
_STAGES = ("customising", "routing", "costs")


def evaluate_all(
    open_engine: OpenEngine,
    model: ModelUnderTest,
    pool: Pool,
    server: Engine,
    settings: WholeSettings,
    cache: AnswerCache,
    *,
    all_data: Pool | None = None,
    workers: int = 1,
    open_alone: OpenEngine | None = None,
    tell: Tell = lambda _: None,
) -> EvalReport:
    """Measure everything there is to say about a device, a pool and a server.

    Args:
        open_engine: opens the device with the given pools.
        model: what it runs.
        pool: what users are customised with.
        server: the connection to the larger model.
        settings: how much to measure.
        cache: where answers are kept; a run that was killed goes on from there.
        all_data: a pool of one member that was trained on all data.
        workers: how many questions the device answers side by side.
        open_alone: opens the device as its users run it, for times (default: as `open_engine`).
        tell: takes lines about the progress.

    Raises:
        ServerError: the server cannot be reached.
        ConfigError: no folder of datasets.
        AdapterError: the pool does not fit, or has no keys.
    """
    tells = {name: _stage(tell, i, name) for i, name in enumerate(_STAGES)}
    own = evaluate(
        open_engine, model, pool, settings.customize, cache, all_data=all_data, workers=workers,
        tell=tells["customising"],
    )  # fmt: skip
    routed = evaluate_route(
        open_engine, model, pool, server, settings.route, cache, workers=workers, tell=tells["routing"]
    )
    both = f"{routed.device} with {routed.server}"
    total = sum(len(chosen(user, settings.costs)) for user, _ in routed.results)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done % 10 == 0 or done == total:
            tells["costs"](f"{done} of {total} queries")

    with (open_alone or open_engine)([pool]) as device:
        served = server.models()[0]
        key = f"{model.sha256} {served.source_sha256 or served.name} {served.quantization}"
        meter = CostMeter(device, server, cache, key, step)
        costs = list(cost_rows(routed.results, meter, both, settings.costs, settings.shares))
    cache.save()
    traffic = [row if row.workload else replace(row, workload=TRAFFIC) for row in routed.report.rows]
    rows = [
        *own.rows,
        *traffic,
        *side_rows(routed.results, both),
        *share_rows(routed.results, both, settings.shares),
        *costs,
    ]
    models = {**own.models, **routed.report.models}
    return EvalReport(BENCH, models, rows, settings=asdict(settings), left_out=own.left_out)


def _stage(tell: Tell, index: int, name: str) -> Callable[[str], None]:
    return lambda line: tell(f"[{index + 1} of {len(_STAGES)}, {name}] {line}")
