"""`crayon tune`: searches for how a server should do its work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli import console, options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.bench.report import Report, Row
    from crayon.server.planner import Pipeline

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

    Nothing is measured and nothing is changed by `paper`; it needs the extra 'plan'.
    """


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
    from crayon.bench.plan import plan_report
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


def _lines(plan: Pipeline, report: Report) -> Iterator[str]:
    from crayon.cli.gantt import gantt

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


def _values(rows: list[Row], decimals: int) -> str:
    return " / ".join(f"{row.value:.{decimals}f}" for row in rows)
