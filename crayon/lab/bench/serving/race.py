"""The whole race: for each model of the plan, its parts one after the other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crayon.adapters import Pool, find_pool
from crayon.device import opening
from crayon.errors import ConfigError, InvalidRequestError
from crayon.lab.bench.report import BenchReport
from crayon.lab.bench.serving import plan as parts
from crayon.lab.bench.serving.concurrency import race_concurrency
from crayon.lab.bench.serving.offline import race_offline
from crayon.lab.bench.serving.optimum import measure
from crayon.lab.bench.serving.peers import Peers
from crayon.lab.bench.serving.plan import FULL, PARTS, QUICK, ModelPlan, Plan
from crayon.lab.bench.serving.plots import Curves
from crayon.lab.bench.serving.prompts import PromptMaker
from crayon.lab.bench.serving.race_online import race_online
from crayon.lab.bench.serving.single import race_blends, race_long_prompt, race_prefix, race_single
from crayon.lab.bench.serving.testbed import ServingTestbed
from crayon.lab.bench.serving.workloads import TRACES, load_trace
from crayon.llama.model import Model
from crayon.machine import usable_cores
from crayon.models import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from crayon.lab.bench.report import BenchRow
    from crayon.lab.bench.serving.systems import SystemSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceOptions:
    """How the race is run.

    Args:
        quick: the shorter plan.
        only: parts to run; empty for all that the plan names.
        models: models to run, by their reference in the plan; empty for all.
        peers: the folder of peers; None for `.peers` here.
        pool: name or folder of the pool that is blended; None for the model's own.
        threads: of every system; None for the cores this process may use.
        models_dir: where model files are kept.
    """

    quick: bool = False
    only: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    peers: Path | None = None
    pool: str | None = None
    threads: int | None = None
    models_dir: Path | None = None


@dataclass(slots=True)
class Race:
    """The race's result: rows for the report, and what is drawn."""

    report: BenchReport = field(default_factory=lambda: BenchReport("server"))
    curves: Curves = field(default_factory=Curves)


def bench_server(
    options: RaceOptions,
    progress: Callable[[str], None] = lambda _: None,
    keep: Callable[[BenchReport], None] = lambda _: None,
) -> Race:
    """Run the race. What it needs is looked for first: no part is found missing after half an hour.

    Args:
        options: how.
        progress: is told what is being measured.
        keep: is given what was measured so far after each part, so that a failure later on loses none of it.

    Raises:
        ConfigError: a peer, a trace or a pool is missing.
        InvalidRequestError: an unknown part or model is named.
        ModelError: a model is not here.
        ServerError: a system failed, or counts other tokens than the others.
    """
    plan = _chosen(QUICK if options.quick else FULL, options)
    wanted = {part for share in plan.models for part in share.parts}
    peers = Peers.below(options.peers)
    peers.check(llama_server=bool(wanted & parts.AGAINST_LLAMA_SERVER), openvino=parts.OFFLINE in wanted)
    for name in _traces(plan):
        load_trace(name)
    pools = [_pool(share, options) for share in plan.models]
    for share in plan.models:
        resolve(share.reference, download=False, models_dir=options.models_dir)
    race, start = Race(), time.monotonic()

    def told(text: str) -> None:
        progress(f"{(time.monotonic() - start) / 60:4.1f} min  {text}")

    flags: dict[str, dict[tuple[str, str], SystemSettings]] = {}
    for share, pool in zip(plan.models, pools, strict=True):
        known = flags.get(share.flags_of, {}) if share.flags_of else {}
        flags[share.reference] = _race_model(race, plan, share, pool, peers, options, known, told, keep)
    return race


def _race_model(
    race: Race,
    plan: Plan,
    share: ModelPlan,
    pool: tuple[str, Pool] | None,
    peers: Peers,
    options: RaceOptions,
    flags: Mapping[tuple[str, str], SystemSettings],
    progress: Callable[[str], None],
    keep: Callable[[BenchReport], None],
) -> dict[tuple[str, str], SystemSettings]:
    """Race one model, with what is known of the best flags; return what was found of them."""
    threads = options.threads or usable_cores()
    found = opening.find(share.reference, models_dir=options.models_dir, download=False)
    source = resolve(share.reference, download=False, models_dir=options.models_dir)
    label = found.name if found.path == source.path else f"{found.name} {found.path.stem}"
    race.report.models[found.name] = found.source_sha256
    with Model(found.path) as model:
        progress(f"{label}: the bare library with {threads} threads")
        optimum = measure(model, threads=threads)
    # Its weights are freed before any server runs; the vocabulary is all that prompts need.
    with Model(found.path, vocab_only=True) as vocabulary:
        bed = ServingTestbed(
            label=label,
            path=found.path,
            source=source.path,
            maker=PromptMaker(vocabulary),
            optimum=optimum,
            plan=plan,
            model_plan=share,
            peers=peers,
            threads=threads,
            pools=(pool[0],) if pool else (),
            progress=progress,
            known=flags,
        )
        for rows in _parts(bed, pool[1] if pool else None, race.curves):
            race.report.rows += rows
            race.report.unmeasured += bed.unmeasured
            bed.unmeasured.clear()
            keep(race.report)
    return bed.best


def _parts(bed: ServingTestbed, pool: Pool | None, curves: Curves) -> Iterator[list[BenchRow]]:
    wanted = bed.model_plan.parts
    if parts.OFFLINE in wanted:
        yield race_offline(bed)
    if parts.ONLINE in wanted:
        found, searches = race_online(bed)
        curves.latency.update({f"{bed.label}, {one.workload}": one for one in searches})
        yield found
    if parts.LONG_PROMPT in wanted:
        yield race_long_prompt(bed)
    if parts.SINGLE in wanted:
        yield race_single(bed)
    if parts.BLENDS in wanted:
        yield race_blends(bed, pool)
    if parts.PREFIX in wanted:
        yield race_prefix(bed)
    if parts.CONCURRENCY in wanted:
        found, lines = race_concurrency(bed)
        curves.throughput[bed.label] = lines
        yield found


def _chosen(plan: Plan, options: RaceOptions) -> Plan:
    """Return the plan with only the parts and models that were named."""
    _known("only", options.only, PARTS)
    _known("models", options.models, [share.reference for share in plan.models])
    models = [
        replace(share, parts=share.parts & set(options.only) if options.only else share.parts)
        for share in plan.models
        if not options.models or share.reference in options.models
    ]
    kept = tuple(share for share in models if share.parts)
    if not kept:
        raise InvalidRequestError("only", "none of these models takes part in what was named")
    return replace(plan, models=kept)


def _traces(plan: Plan) -> set[str]:
    """Return the traces that the plan reads."""
    offline = {name for share in plan.models if parts.OFFLINE in share.parts for name in share.workloads}
    online = {name for share in plan.models if parts.ONLINE in share.parts for name in share.online}
    return (offline | online) & set(TRACES)


def _known(field_name: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InvalidRequestError(field_name, f"{name!r} is unknown; there is: {', '.join(known)}")


def _pool(share: ModelPlan, options: RaceOptions) -> tuple[str, Pool] | None:
    """Return the pool that the model's blends are of, as `crayon serve` is told of it; None where none are raced."""
    if parts.BLENDS not in share.parts:
        return None
    found = opening.find(share.reference, models_dir=options.models_dir, download=False)
    if options.pool is not None:
        pool = Pool.open(find_pool(options.pool))
        pool.check_base(found.source_sha256, found.name)
        return options.pool, pool
    folder = opening.shipped(found.source_sha256)
    if folder is None:
        raise ConfigError("pool", f"no pool is shipped for {found.name}; name one with --pool")
    return str(folder), Pool.open(folder)
