"""`crayon eval run`: everything in one command, with a page and plots."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from crayon.cli.eval import files as eval_files
from crayon.cli.eval import setup as eval_setup
from crayon.cli.shared import console, options
from crayon.machine import usable_cores


def run(
    reference: eval_setup.ModelArgument = "smollm2-135m-instruct",
    *,
    server: eval_setup.ServerOption = None,
    server_model: eval_setup.ServerModelOption = "qwen2.5-coder-1.5b-instruct",
    pool: eval_setup.PoolOption = None,
    all_data: eval_setup.AllDataOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer users, questions, draws and controls: about 15 minutes on 2 cores.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="GROUPS", help="Customised users: of in_pool,unseen,mixed,far, with commas."),
    ] = None,
    controls: Annotated[
        str | None, typer.Option("--controls", metavar="LIST", help="What stands beside the blend, with commas.")
    ] = None,
    items: Annotated[int | None, typer.Option("--items", metavar="N", help="Questions of a user (10 or more).")] = None,
    draws: Annotated[int | None, typer.Option("--draws", metavar="N", help="How often samples are drawn.")] = None,
    tasks: Annotated[int | None, typer.Option("--tasks", metavar="N", help="Most users of tasks in pool.")] = None,
    costs: Annotated[
        int | None, typer.Option("--costs", metavar="N", help="Queries of a user whose costs are measured.")
    ] = None,
    workers: eval_setup.WorkersOption = 0,
    out: eval_setup.OutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure all of it: device alone, server alone, both at every share, before and after customising.

    Users are made from the datasets that CRAYON_DATA names: tasks the pool knows, near ones it does not, two at once,
    far ones; with 4, 16 and 64 samples, drawn several times. The device answers plain, with examples, blended and with
    every control of `crayon eval customize`; then the router of `crayon eval route` decides, and what queries cost is
    measured: tokens of the server, bytes that leave the device, seconds of the device.

    Writes run.json (settings, hashes, every figure), report.md and, with the extra 'plots', PNG files. Answers are
    kept by model, blend and prompt: a run that was stopped goes on where it was, and `crayon eval customize` and
    `route` with the same --out share them. Without --quick it takes hours. Example: crayon eval run --quick
    """
    from crayon.adapters import Pool, find_pool
    from crayon.lab.bench.made import Making
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.whole import page, plots
    from crayon.lab.eval.whole.run import evaluate_all
    from crayon.lab.eval.whole.settings import WholeSettings

    making = Making.of(sys.argv[1:])
    settings = (WholeSettings.quick() if quick else WholeSettings()).changed(
        items=items, draws=draws, tasks=tasks, costs=costs,
        controls=eval_setup.words(controls), groups=eval_setup.words(only),
    )  # fmt: skip
    found, model = eval_setup.model_of(reference, options.load_settings({}).models_dir)
    chosen = eval_setup.pool_of(found, pool)
    folder = out or eval_setup.default_folder()
    with ExitStack() as stack:
        cache = stack.enter_context(AnswerCache(folder / eval_setup.ANSWERS))
        engine = eval_setup.serve(stack, server, server_model)
        report = evaluate_all(
            lambda wanted: eval_setup.open_engine(found, wanted),
            model,
            chosen,
            engine,
            settings,
            cache,
            all_data=Pool.open(find_pool(all_data)) if all_data else None,
            workers=workers or min(usable_cores(), eval_setup.MOST_WORKERS),
            open_alone=lambda wanted: eval_setup.open_engine(found, wanted, threads=None),
            tell=console.message,
        )
    report.made = making.done()
    record = report.as_json()
    eval_files.write(
        record,
        folder,
        "run",
        page="report.md",
        draw=lambda: plots.draw(record, report.rows, settings.customize.samples[0], folder),
        markdown=lambda drawn: page.markdown(record, drawn),
        as_json=as_json,
    )
