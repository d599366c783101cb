"""`crayon bench`: figures that anybody can measure again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli import console, options

if TYPE_CHECKING:
    from crayon.bench.report import Report

app = typer.Typer(add_completion=False, no_args_is_help=True)

_DECIMALS = {"ratio": 3, "nats": 4}
_Runs = Annotated[int, typer.Option("--runs", min=3, max=99, help="Measured repetitions; medians are shown.")]


@app.callback()
def bench() -> None:
    """Measure the device and the start-up.

    Run it with nothing else running: a second busy process beside two compute threads costs far more than its share.
    """


@app.command()
def device(
    reference: Annotated[str, typer.Argument(metavar="[MODEL]", help="A prepared model.")] = "smollm2-135m-instruct",
    *,
    runs: _Runs = 15,
    as_json: options.JsonOption = False,
) -> None:
    """Race the device runtime against the bare library, and the prepared file against its source.

    Ratios are ours over theirs, from pairs run in turn in one process; 1.00 is as fast. Example:
    crayon models prepare && crayon bench device --json
    """
    from crayon.bench.device import bench_device

    models_dir = options.load_settings({}).models_dir
    _print(bench_device(reference, models_dir=models_dir, runs=runs, progress=console.message), as_json=as_json)


@app.command()
def startup(*, runs: _Runs = 9, as_json: options.JsonOption = False) -> None:
    """Measure how long `import crayon` and `crayon --help` take, in fresh processes.

    Example: crayon bench startup --json
    """
    from crayon.bench.startup import bench_startup

    _print(bench_startup(runs), as_json=as_json)


def _print(report: Report, *, as_json: bool) -> None:
    record = report.as_json()
    if as_json:
        print(json.dumps(record, indent=2))
        return
    env = record["env"]
    print(f"{env['cpu']}, {env['cores']} cores, llama-cpp-python {env['versions']['llama-cpp-python']}")
    for row in report.rows:
        value = (
            f"{row.value:.3f}"
            if row.unit == "ratio"
            else f"{row.value:.4f}"
            if row.unit == "nats"
            else f"{row.value:.1f}"
        )
        where = ", ".join(text for text in (row.workload, row.model, row.against and f"against {row.against}") if text)
        low, high = min(row.runs), max(row.runs)
        spread = f" ({low:.3g} to {high:.3g} in {len(row.runs)} runs)" if len(row.runs) > 1 else ""
        print(f"{row.metric:32} {value:>9} {row.unit:6} {where}{spread}")
