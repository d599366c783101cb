"""`crayon tune`: searches for how a server should do its work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli.shared import console, options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.lab.bench.report import BenchReport, BenchRow
    from crayon.server.planner import Pipeline
    from crayon.server.tuning import TunedProfile

app = typer.Typer(add_completion=False, no_args_is_help=True)

# Metric, what the table calls it, decimals.
_TABLE = (
    ("sequential_ms", "one operation after the other, ms", 2),
    ("makespan_ms", "makespan of all layers, ms", 2),
    ("overlap_gain", "gain by overlap", 3),
    ("perfect_overlap_gain", "gain if only dense operations took time", 2),
    ("nano_batch_only_ratio", "speed when cut but not overlapped", 3),
    ("sequential_tokens_per_s_per_gpu", "sequential, tokens/s/GPU", 0),
    ("tokens_per_s_per_gpu", "overlapped, tokens/s/GPU", 0),
    ("fraction_of_optimum", "fraction of the optimum", 3),
)
_CAVEATS = """\
Predicted from published times alone: no time of the host, no gaps between launches, shares measured in pairs where
three run. The paper's are measured, on 512/512, 1024/512 and 512/1024 tokens in and out. Its optimum of 1857 does
not follow from its own 280 TFLOPS and 70 B parameters, which give 2000."""


@app.callback()
def tune() -> None:
    """Search for the best plan of a server's work.

    `server` measures this machine and is used by crayon serve. `paper` measures and changes nothing; it needs the
    extra 'plan'.
    """


@app.command()
def server(
    reference: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="Which model; it is fetched if absent.")
    ] = "qwen2.5-coder-1.5b-instruct",
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Search for 30 seconds: batch, sequences, threads and one overlap.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with a search of the same settings that was stopped.")
    ] = True,
    pool: Annotated[
        list[str] | None,
        typer.Option("--pool", metavar="POOL", help="Adapters that requests blend; several --blends need one."),
    ] = None,
    blends: Annotated[int, typer.Option("--blends", min=1, help="Different blends among the requests.")] = 1,
    ctx: Annotated[
        int | None,
        typer.Option("--ctx", min=16, help="Tokens of context of all requests; if not given, what crayon serve has."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Of a typical request.")] = 200,
    answer_tokens: Annotated[int, typer.Option("--answer-tokens", min=1, help="Of a typical request.")] = 50,
    latency_ms: Annotated[
        float, typer.Option("--latency-ms", min=1, help="Most milliseconds between two tokens of an answer.")
    ] = 250.0,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", metavar="SECONDS", min=1, help="If not given: 480, or 30 with --quick."),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Search how a server answers most on this machine, and keep the result for crayon serve.

    Times single calls, fits what they cost, predicts every batch, number of sequences, kind of cache and cut; then
    measures the best with a server's other work beside them, threads against cores kept free, and reading and writing
    at the same time. What lost is in the record too. Best on an idle machine. Example: crayon tune server --quick
    """
    from crayon.cli.serve.command import open_pools
    from crayon.cli.serve.tuned import DECIDED, folder_of
    from crayon.cli.shared.pull_progress import pull_progress
    from crayon.errors import ConfigError
    from crayon.models import read_gguf, resolve
    from crayon.models.prepared import origin
    from crayon.server.tuning import ExpectedLoad, Key
    from crayon.server.tuning import tune as search

    if blends > 1 and not pool:
        raise ConfigError("--blends", "of 2 or more need a --pool to change between")
    settings = options.load_settings({})
    models_dir = settings.models_dir
    # A record holds for one size of cache.
    ctx = settings.serve.ctx if ctx is None else ctx
    workload = ExpectedLoad(
        prompt=prompt_tokens, answer=answer_tokens, blends=blends, n_ctx=ctx, itl_target_s=latency_ms / 1000
    )
    given = [key for key in DECIDED if getattr(settings.serve, key) is not None]
    if given:
        console.warning(f"crayon serve will not use what is found: the settings give {', '.join(given)}")
    with pull_progress(reference) as progress:
        local = resolve(reference, progress=progress, models_dir=models_dir)
    info = read_gguf(local.path)
    source, quantization = origin({key: str(value) for key, value in info.metadata.items()}, local.sha256)
    profile = search(
        local.path,
        Key.here(local.sha256, quantization or info.file_type or "", ctx),
        folder_of(local, models_dir),
        workload=workload,
        quick=quick,
        seconds=time_limit,
        resume=resume,
        pools=open_pools(tuple(pool or ()), source, local.name),
        say=lambda text: console.message(text, "dim"),
    )
    if as_json:
        print(json.dumps({"model": local.name, **profile.as_json()}, indent=2))
        return
    for line in _tuned(profile):
        print(line)


def _tuned(profile: TunedProfile) -> Iterator[str]:
    """Yield what was measured, best first, and why each knob is as it is."""
    evidence = profile.evidence
    rows = [(row["measured"], row["choice"]) for row in evidence["measured"]]
    yield f"{'tokens/s':>9}{'between tokens, ms':>20}  {'batch':>6}{'sequences':>10}{'threads':>8}{'nano':>5}  cache"
    for got, choice in sorted(rows, key=lambda row: -row[0]["tokens_per_s"]):
        yield (
            f"{got['tokens_per_s']:9.0f}{1000 * got['longest_s']:20.0f}  {choice['n_batch']:6}{choice['n_seq_max']:10}"
            f"{choice['threads']:8}{choice['nano']:5}  {'unified' if choice['kv_unified'] else 'split'}"
        )
    for got in evidence["interference"]:
        yield (
            f"{got['tokens_per_s']:9.0f}{1000 * got['decode_both_s']:20.0f}  overlap on {got['prefill_cores']} + "
            f"{got['decode_cores']} cores, {got['ratio']:.2f} times as fast as in turn"
        )
    if evidence["skipped"]:
        yield f"{len(evidence['skipped'])} more could not be measured in the time; --time-limit gives it more"
    yield ""
    for knob, why in evidence["why"].items():
        yield f"{knob:12}{why}"
    yield f"{'chosen':12}{profile.choice}"


@app.command()
def paper(
    *,
    layers: Annotated[
        int, typer.Option("--layers", metavar="N", min=1, max=1000, help="Plan for this many layers.")
    ] = 80,
    time_limit: Annotated[
        float, typer.Option("--time-limit", metavar="SECONDS", min=1, help="Take the best plan found by then.")
    ] = 60.0,
    as_json: options.JsonOption = False,
) -> None:
    """Search NanoFlow's pipeline for LLaMA-2-70B on eight A100s, from the paper's published times.

    Two mixed integer programs: how operations are cut and ordered, then which share of a GPU each piece gets. Prints
    one layer of the plan and what it predicts beside what the paper measured. Example: crayon tune paper --json
    """
    from crayon.lab.bench.plan import plan_report
    from crayon.server.planner import llama2_70b, search

    workloads = [llama2_70b(reduce=reduce, layers=layers) for reduce in (False, True)]
    found = search(workloads, seconds=time_limit, progress=console.message)
    if not found.in_time:
        console.warning(f"the search was cut off after {time_limit:g} s; --time-limit gives it more")
    report = plan_report(found.pipeline)
    if as_json:
        record = report.as_json()
        record["plan"] = _plan(found.pipeline)
        print(json.dumps(record, indent=2))
        return
    for line in _lines(found.pipeline, report):
        print(line)


def _plan(plan: Pipeline) -> dict[str, Any]:
    """Return the plan as JSON."""
    return {
        "period_ms": round(plan.period, 6),
        "pieces": [
            {
                "operation": piece.operation.name,
                "resource": piece.resource,
                "tokens": [piece.first, piece.last],
                "share": piece.share,
                "start_ms": round(piece.start, 6),
                "duration_ms": round(piece.duration, 6),
            }
            for piece in plan.pieces
        ],
    }


def _lines(plan: Pipeline, report: BenchReport) -> Iterator[str]:
    from crayon.cli.tune.gantt import gantt

    yield f"One layer of {plan.workload.layers}, {plan.period:.3f} ms; what crosses the end goes on at the beginning:"
    yield ""
    yield from gantt(plan)
    yield ""
    yield f"{'piece':10}{'tokens':>12}{'share':>7}{'start':>8}{'end, ms':>9}"
    begin = min(piece.start for piece in plan.pieces)
    for piece in plan.pieces:
        tokens = f"{piece.first}-{piece.last}"
        yield f"{piece.name:10}{tokens:>12}{piece.share:7.1f}{piece.start - begin:8.3f}{piece.end - begin:9.3f}"
    yield ""
    yield f"{'':42}{'planned':>9}   paper"
    for metric, text, decimals in _TABLE:
        rows = [row for row in report.rows if row.metric == metric]
        planned, published = ([row for row in rows if row.variant == variant] for variant in ("planned", "paper"))
        yield f"{text:42}{_values(planned, decimals):>9}   {_values(published, decimals)}".rstrip()
    yield ""
    yield _CAVEATS


def _values(rows: list[BenchRow], decimals: int) -> str:
    return " / ".join(f"{row.value:.{decimals}f}" for row in rows)
