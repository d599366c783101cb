"""What customising and blending cost: the moment before the first token, and every token after it."""

from __future__ import annotations

import functools
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.blending import PoolBlends
from crayon.completion import Blend
from crayon.customising.profiles import make_profiles
from crayon.customising.space import space_of_pool
from crayon.data.texts import background_texts
from crayon.device import DeviceEngine, opening
from crayon.device.prepare import TurnBench
from crayon.engine import EncodeRequest
from crayon.errors import AdapterError
from crayon.lab.bench.customising import PATIENCE_S, Setup, bench_customising, letters
from crayon.lab.bench.peft import bench_peft, require
from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crayon.adapters.pool import Pool
    from crayon.device.opening import Opening
    from crayon.llama.adapter import Adapter

    Scaled: TypeAlias = Sequence[tuple[Adapter, float]]

PROMPT, ANSWER = 256, 64


def bench_blend(
    reference: str,
    pool: Pool | None = None,
    *,
    models_dir: Path | None = None,
    runs: int = 7,
    peft: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Measure a model on the file the device runs, with a pool (by default its own) if there is one.

    Raises:
        ModelError: the model is not here.
        AdapterError: the pool was made for another model, or has no keys.
        MissingExtraError: `peft` without the extra 'train'.
    """
    found = opening.find(reference, models_dir=models_dir, download=False)
    if pool is None:
        pool = next(iter(opening.pools(opening.AUTO, found.source_sha256)), None)
    model = f"{found.name} {found.path.stem}"
    report = BenchReport("blend", {found.name: found.source_sha256})
    if pool is None:
        report.unmeasured.append(f"what blending costs: no pool is shipped for {found.name}; name one with --pool")
    else:
        report.models[f"pool {pool.id}"] = pool.manifest.tensors_sha256
        report.rows += _pooled(found, pool, model, runs, peft=peft, progress=progress)
    open_engine = functools.partial(_open, found, [pool] if pool else [])
    rows, unmeasured = bench_customising(Setup(open_engine, model, runs), progress)
    report.rows += rows
    report.unmeasured += unmeasured
    return report


def _pooled(
    found: Opening, pool: Pool, model: str, runs: int, *, peft: bool, progress: Callable[[str], None]
) -> list[BenchRow]:
    """Return what a pool costs: weighing, blending, and every token."""
    pool.check_base(found.source_sha256, found.name)
    if pool.manifest.encoder is None:
        raise AdapterError(f"pool {pool.id} has no keys, so samples cannot be compared with its members")
    add_weighted = require() if peft else None
    with Model(found.path) as loaded, TurnBench(loaded, PROMPT, ANSWER) as bench:
        blends = PoolBlends(loaded, [pool], contexts=(bench.context,), capacity=len(pool) + 2)
        try:
            progress("blending and activating")
            activate = _activate(blends, bench, pool, model, runs)
            progress("tokens under a blend, beside none and beside live adapters")
            tokens = _tokens(blends, bench, pool, model, runs)
        finally:
            bench.context.set_adapters()
            blends.close()
    with _open(found, [pool]) as engine:
        rows = [_weigh(engine, pool, model, runs), activate, *tokens]
    if add_weighted is not None:
        progress("PEFT's add_weighted_adapter")
        rows += bench_peft(add_weighted, pool, runs)
    return rows


def _open(found: Opening, pools: Sequence[Pool]) -> DeviceEngine:
    return DeviceEngine(
        found.path,
        name=found.name,
        background=background_texts(),
        cache_dir=found.cache_dir,
        source_sha256=found.source_sha256,
        pools=pools,
    )


def _activate(blends: PoolBlends, bench: TurnBench, pool: Pool, model: str, runs: int) -> BenchRow:
    """Time a new blend each time, of all members: sum, image, llama.cpp's loading, and applying it."""
    rng = np.random.default_rng(0)
    taken = []
    for _ in range(5 * runs + 1):
        blend = _blend(pool, rng)
        started = time.perf_counter()
        with blends(blend) as adapters:
            bench.context.set_adapters(adapters)
        taken.append(1000 * (time.perf_counter() - started))
    # The first makes the image that the others fill in.
    return BenchRow.median("blend_and_activate_ms", "ms", taken[1:], model=model, workload=_members(pool))


def _tokens(blends: PoolBlends, bench: TurnBench, pool: Pool, model: str, runs: int) -> list[BenchRow]:
    """Race one blend against no adapter and against live adapters, each run between two of the other's."""
    rng = np.random.default_rng(1)
    blend = _blend(pool, rng)
    with ExitStack() as stack:
        blended = stack.enter_context(blends(blend))
        single = [stack.enter_context(blends(_one(pool, k))) for k in range(len(pool))]
        live = [(lease[0][0], weight) for lease, weight in zip(single, blend.weights, strict=True)]
        plain_prefill, plain_decode = _race(bench, blended, (), runs)
        _, live_decode = _race(bench, blended, live, runs)
    reading, writing = f"{PROMPT} in", f"{ANSWER} out after {PROMPT}"
    return [
        BenchRow.median(
            "prefill_ratio_vs_no_adapter", "ratio", plain_prefill, model=model, workload=reading, against="no adapter"
        ),
        BenchRow.median(
            "decode_ratio_vs_no_adapter", "ratio", plain_decode, model=model, workload=writing, against="no adapter"
        ),
        BenchRow.median(
            "decode_ratio_vs_live_adapters",
            "ratio",
            live_decode,
            model=model,
            workload=writing,
            against=f"{len(pool)} live adapters with scales",
        ),
    ]


def _race(bench: TurnBench, ours: Scaled, theirs: Scaled, runs: int) -> tuple[list[float], list[float]]:
    """Return theirs over ours for reading and for writing; each of ours is held against the two around it."""

    def turn(adapters: Scaled) -> tuple[float, float]:
        bench.context.set_adapters(adapters)
        return bench.turn()

    turn(ours)  # touches everything once
    turn(theirs)
    around, own = [turn(theirs)], []
    for _ in range(runs):
        own.append(turn(ours))
        around.append(turn(theirs))
    reading, writing = (
        [(around[i][at] + around[i + 1][at]) / (2 * mine[at]) for i, mine in enumerate(own)] for at in (0, 1)
    )
    return reading, writing


def _weigh(engine: DeviceEngine, pool: Pool, model: str, runs: int) -> BenchRow:
    texts = tuple(text for text, _ in letters(0))
    states = engine.encode_raw(EncodeRequest(texts=texts)).result(PATIENCE_S)
    space = space_of_pool(pool)
    vectors, background = space.place(states.states), space.place(states.background)
    weighed = []
    for _ in range(10 * runs + 1):
        started = time.perf_counter()
        make_profiles(vectors, background, pool.keys, pool.names, pool.manifest.gate)
        weighed.append(1000 * (time.perf_counter() - started))
    # The first warms up.
    return BenchRow.median("weights_ms", "ms", weighed[1:], model=model, workload=f"{len(texts)} embedded samples")


def _blend(pool: Pool, rng: np.random.Generator) -> Blend:
    """Return random weights that sum to 1, none of them 0."""
    return Blend(pool.id, tuple(float(weight) for weight in rng.dirichlet(np.full(len(pool), 5.0))))


def _one(pool: Pool, index: int) -> Blend:
    return Blend(pool.id, tuple(float(k == index) for k in range(len(pool))))


def _members(pool: Pool) -> str:
    return f"{len(pool)} members of rank {pool.manifest.rank}, {len(pool.manifest.targets)} matrices"
